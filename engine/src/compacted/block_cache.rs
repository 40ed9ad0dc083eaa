//! Blocks that were decompressed lately, shared by all readers of a store. Nobody waits for anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;

use crate::storage::Map;

/// A block has its place in one of so many sets, among so many others: 16 MiB of blocks of the ordinary length in all.
const SETS: usize = 64;
const WAYS: usize = 4;
/// Longer ones are not kept.
const KEPT_LEN_MAX: usize = 128 << 10;

#[derive(Debug)]
struct Kept {
    container: u64,
    block: u32,
    map: Map,
}

/// Each slot is replaced as a whole; a block may be decompressed by two readers at once, which only costs time.
#[derive(Debug)]
pub(crate) struct BlockCache {
    slots: Box<[ArcSwapOption<Kept>]>,
    /// Which of a set goes next.
    hand: AtomicUsize,
}

impl Default for BlockCache {
    fn default() -> Self {
        Self { slots: (0..SETS * WAYS).map(|_| ArcSwapOption::empty()).collect(), hand: AtomicUsize::new(0) }
    }
}

impl BlockCache {
    fn set(&self, container: u64, block: u32) -> &[ArcSwapOption<Kept>] {
        let set = (container.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize + block as usize;
        &self.slots[set % SETS * WAYS..][..WAYS]
    }

    pub(super) fn get(&self, container: u64, block: u32) -> Option<Map> {
        self.set(container, block).iter().find_map(|slot| {
            let kept = slot.load();
            let kept = kept.as_ref().filter(|kept| kept.container == container && kept.block == block);
            kept.map(|kept| kept.map.clone())
        })
    }

    pub(super) fn put(&self, container: u64, block: u32, map: Map) {
        if map.len() > KEPT_LEN_MAX {
            return;
        }
        let set = self.set(container, block);
        let free = set.iter().position(|slot| slot.load().is_none());
        let way = free.unwrap_or_else(|| self.hand.fetch_add(1, Ordering::Relaxed) % WAYS);
        set[way].store(Some(Arc::new(Kept { container, block, map })));
    }
}
