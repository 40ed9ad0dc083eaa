use std::io::IoSlice;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;

use super::super::{MemoryFile, StorageFile};
use super::*;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256) as u8).collect()
}

#[test]
fn a_heap_map_holds_the_bytes_and_is_aligned() {
    for len in [0, 1, 15, 16, 17, 4096, 5000] {
        let map = Map::from(pattern(len));
        assert_eq!(map.len(), len);
        assert_eq!(&map[..], pattern(len));
        assert_eq!(map.get(0..0).map(<[u8]>::as_ptr).map(|start| start as usize % 16), Some(0));
    }
}

#[test]
fn ranges_outside_a_map_are_refused() {
    let map = Map::from(pattern(100));
    assert_eq!(map.get(90..100), Some(&pattern(100)[90..]));
    assert_eq!(map.get(100..100), Some(&[][..]));
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    let reversed = 50..49;
    for range in [90..101, 101..101, reversed, 0..usize::MAX, usize::MAX..usize::MAX] {
        assert_eq!(map.get(range.clone()), None, "{range:?}");
    }
}

#[test]
fn bytes_outlive_the_map_without_a_copy() {
    let map = Map::from(pattern(1000));
    let start = map[100..].as_ptr();
    let bytes = map.bytes_of(100..200);
    drop(map);
    assert_eq!(bytes.as_ptr(), start);
    assert_eq!(bytes, pattern(1000)[100..200]);
}

#[test]
fn shared_memory_gives_back_what_was_stored() {
    let map = SharedMap::anonymous(1024).unwrap();
    for len in (0..=256).step_by(8) {
        for offset in [0, 8, 24, 1024 - 256] {
            map.zero(0..1024);
            let bytes = pattern(len);
            map.store(offset, &bytes);
            let mut out = vec![1; len];
            map.load(offset, &mut out);
            assert_eq!(out, bytes);
            let mut all = vec![1; 1024];
            map.load(0, &mut all);
            assert!(all[..offset].iter().chain(&all[offset + len..]).all(|&byte| byte == 0));
        }
    }
}

#[test]
fn shared_memory_zeroes_ranges_and_holds_words() {
    let map = SharedMap::anonymous(64).unwrap();
    map.store(0, &[0xFF; 64]);
    map.zero(8..24);
    assert_eq!(map.load_word(0, Ordering::Relaxed), u64::MAX);
    assert_eq!(map.load_word(8, Ordering::Relaxed), 0);
    assert_eq!(map.load_word(16, Ordering::Relaxed), 0);
    assert_eq!(map.load_word(24, Ordering::Relaxed), u64::MAX);
    map.store_word(56, 0x0102_0304_0506_0708, Ordering::Release);
    let mut out = [0; 8];
    map.load(56, &mut out);
    assert_eq!(out, 0x0102_0304_0506_0708u64.to_ne_bytes());
    assert_eq!(map.word(56).fetch_add(1, Ordering::Relaxed), 0x0102_0304_0506_0708);
}

#[test]
fn shared_memory_is_whole_words() {
    for len in [1, 7, 4097] {
        assert_eq!(SharedMap::anonymous(len).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    let panics = |run: &dyn Fn(&SharedMap)| {
        let map = SharedMap::anonymous(64).unwrap();
        std::panic::catch_unwind(AssertUnwindSafe(|| run(&map))).is_err()
    };
    assert!(panics(&|map| map.store(4, &[0; 8])));
    assert!(panics(&|map| map.store(0, &[0; 7])));
    assert!(panics(&|map| map.store(64, &[0; 8])));
    assert!(panics(&|map| map.load(usize::MAX - 7, &mut [0; 16])));
    assert!(panics(&|map| map.zero(0..72)));
    assert!(panics(&|map| _ = map.load_word(64, Ordering::Relaxed)));
    assert!(!panics(&|map| map.store(56, &[0; 8])));
}

#[test]
fn shared_ranges_are_written_in_order_with_a_tail() {
    let map = SharedMap::anonymous(4096).unwrap();
    map.store(0, &pattern(4096));
    let file = MemoryFile::new(8192).unwrap();
    map.write_to(&file, 10, &[4000..4096, 0..33], &[9; 5]).unwrap();
    let bytes = pattern(4096);
    let expected = [&[0; 10][..], &bytes[4000..], &bytes[..33], &[9; 5], &[0; 20]].concat();
    assert_eq!(file.to_vec()[..expected.len()], expected);
    let refused = map.write_to(&file, 8190, &[0..2, 2..3], &[]).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
}

/// A block compares before it writes; what is read meanwhile must neither be torn nor touched.
#[test]
fn rewriting_a_grown_page_leaves_its_start_alone() {
    let file = MemoryFile::new(4096).unwrap();
    let map = file.map().unwrap();
    let bytes = pattern(4096);
    file.write_at(0, &[IoSlice::new(&bytes[..1000])]).unwrap();
    std::thread::scope(|scope| {
        let published = &map[..1000];
        let reader = scope.spawn(move || published == &pattern(4096)[..1000]);
        for end in (1000..=4096).step_by(172) {
            file.write_at(0, &[IoSlice::new(&bytes[..end])]).unwrap();
        }
        assert!(reader.join().unwrap());
    });
    assert_eq!(&map[..], bytes);
}

/// How a follower beside a writer in memory reads: a small file that changes in place says how far another one holds bytes that
/// no longer change.
#[test]
fn who_sees_a_written_word_sees_what_was_written_before() {
    const ROUNDS: usize = if cfg!(miri) { 20 } else { 20_000 };
    let (data, mark) = (MemoryFile::new(16 * ROUNDS as u64).unwrap(), MemoryFile::new(64).unwrap());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 1..=ROUNDS {
                data.write_at(16 * (round as u64 - 1), &[IoSlice::new(&[round as u8; 16])]).unwrap();
                mark.write_at(0, &[IoSlice::new(&round.to_ne_bytes()), IoSlice::new(&[round as u8; 21])]).unwrap();
            }
        });
        let (bytes, mark) = (data.map().unwrap(), mark.map_shared().unwrap());
        let (mut seen, mut copy) = (0, [0; 32]);
        while seen < ROUNDS {
            mark.load_acquired(0, &mut copy);
            let now = usize::from_ne_bytes(copy[..8].try_into().unwrap());
            for round in seen + 1..=now {
                assert_eq!(bytes[16 * (round - 1)..16 * round], [round as u8; 16]);
            }
            seen = now;
        }
        writer.join().unwrap();
    });
    assert_eq!(mark.to_vec()[8..32], [&[ROUNDS as u8; 21][..], &[0; 3]].concat());
}

/// Release and acquire on one word publish relaxed words: the rule the ring lives by.
#[test]
fn words_published_by_a_release_are_seen_whole() {
    const ROUNDS: u64 = if cfg!(miri) { 20 } else { 20_000 };
    let map = SharedMap::anonymous(128).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                while map.load_word(120, Ordering::Acquire) != round - 1 {
                    std::hint::spin_loop();
                }
                map.store(0, &[round as u8; 64]);
                map.store_word(112, round, Ordering::Release);
            }
        });
        let mut copy = [0; 64];
        for round in 1..=ROUNDS {
            while map.load_word(112, Ordering::Acquire) != round {
                std::hint::spin_loop();
            }
            map.load(0, &mut copy);
            assert_eq!(copy, [round as u8; 64]);
            map.store_word(120, round, Ordering::Release);
        }
    });
}

#[test]
fn the_memory_of_a_copy_serves_again_when_nobody_else_holds_it() {
    let fill = |value| move |bytes: &mut [u8]| bytes.fill(value);
    let first = Map::copied(100, None, fill(1));
    assert_eq!(&first[..], [1; 100]);
    assert!(first.is_copy());
    let at = first.as_ptr();
    let second = Map::copied(1000, Some(first), fill(2));
    assert_eq!((second.as_ptr(), second.len()), (at, 1000));
    assert_eq!(&second[..], [2; 1000]);
    // Held by somebody: left alone.
    let held = second.clone();
    let third = Map::copied(50, Some(second), fill(3));
    assert_ne!(third.as_ptr(), at);
    assert_eq!((&held[..], &third[..]), (&[2; 1000][..], &[3; 50][..]));
    // Too short.
    let fourth = Map::copied(5000, Some(third), fill(4));
    assert_eq!(&fourth[..], [4; 5000]);
    // No copies are what is mapped, and what is long.
    assert!(!Map::copied(1 << 20, None, fill(5)).is_copy());
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    let mapped = Map::of_file(&file, 4096).unwrap();
    assert!(!mapped.is_copy());
    assert_eq!(&Map::copied(8, Some(mapped), fill(6))[..], [6; 8]);
}
