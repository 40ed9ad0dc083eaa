//! Containers, the files of compacted segments, read by the description of the format alone.

use annals_format::compacted::{BlockTable, COMPACTED_HEADER_LEN, CompactedHeader};
use annals_format::residue::Head;

/// Whether a file of this name holds a compacted segment: its name has a generation behind the number.
#[must_use]
pub fn is_container(name: &str) -> bool {
    name.starts_with("segment-") && name.len() > 40
}

/// What a container holds, decompressed: its dictionary, then all blocks in order.
///
/// # Panics
/// If it is damaged.
#[must_use]
pub fn held_by(file: &[u8]) -> Vec<u8> {
    let (header, _) = CompactedHeader::decode(&file[..COMPACTED_HEADER_LEN]).expect("a header");
    let of = |range: std::ops::Range<u64>| &file[range.start as usize..range.end as usize];
    let table = BlockTable::decode(&header, of(header.block_table())).expect("a block table");
    let dictionary = of(header.dictionary());
    let mut decoder = zstd::bulk::Decompressor::with_dictionary(dictionary).expect("a dictionary");
    let mut held = dictionary.to_vec();
    for number in 0..header.block_count {
        let bytes = of(table.place(number).expect("a block's place"));
        let len = header.block_content_len(number) as usize;
        table.check(number, bytes).expect("a block with its checksum");
        if bytes.len() == len {
            held.extend_from_slice(bytes);
            continue;
        }
        let (head, rest) = Head::decode(bytes).expect("what stands in front of a residue");
        let mut block = decoder.decompress(rest, len).expect("a block that can be decompressed");
        head.put_back(&mut block, header.seed()).expect("the block as it was");
        held.extend(block);
    }
    held
}
