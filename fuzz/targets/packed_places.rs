//! Packed places: whatever the rows say, a look-up answers something.
#![no_main]

use annals_format::index_file::{FileBytes, FileHeader};
use annals_format::packed_places::{PackedLayout, place};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (groups, words) = bytes.split_at(bytes.len() / 2);
    for record in (0..256).chain([u32::MAX, u32::MAX / 2]) {
        let _ = place(groups, words, record);
    }
    let mut file = FileBytes::new();
    file.extend_from_slice(bytes);
    let Ok(header) = FileHeader::decode(&file) else { return };
    if let Ok(layout) = PackedLayout::read(&file, &header) {
        assert!(layout.groups().end <= file.len() && layout.words().end <= file.len());
    }
});
