//! Packed places: whatever the rows say, a look-up answers something; as they are, and in a file with its checksums put right.
#![no_main]

use annals_format::index_file::{FileBytes, FileHeader};
use annals_format::packed_places::{PackedLayout, place};
use annals_fuzz::samples::fix_index_file;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (groups, words) = bytes.split_at(bytes.len() / 2);
    for record in (0..256).chain([u32::MAX, u32::MAX / 2]) {
        let _ = place(groups, words, record);
    }
    let mut file = FileBytes::new();
    file.extend_from_slice(bytes);
    look_up(&file);
    // And with its checksums put right.
    fix_index_file(&mut file);
    look_up(&file);
});

fn look_up(file: &[u8]) {
    let Ok(header) = FileHeader::decode(file) else { return };
    let Ok(layout) = PackedLayout::read(file, &header) else { return };
    let (groups, words) = (&file[layout.groups()], &file[layout.words()]);
    for record in 0..layout.record_count().min(256) {
        let _ = place(groups, words, record);
    }
}
