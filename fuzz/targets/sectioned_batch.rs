//! Decodes the input as a batch with typed sections, as it is and again with its checksums put right; and applies what changes
//! of consumers it holds: the state must survive its file.
#![no_main]

use annals_format::batch::BatchHeader;
use annals_format::consumer::{ConsumerFile, ConsumerFileHeader, ConsumerTable};
use annals_format::scan;
use annals_format::section::Section;
use annals_fuzz::samples::{self, Structure};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static STRUCTURE: LazyLock<Structure> = LazyLock::new(|| samples::structure("sectioned_batch"));

fuzz_target!(|bytes: &[u8]| {
    samples::exercise(&STRUCTURE, bytes);
    let mut fixed = bytes.to_vec();
    samples::fix_batch(&mut fixed);
    let Ok(header) = BatchHeader::decode(&fixed, samples::seed()) else { return };
    if !header.has_sections {
        return;
    }
    let mut table = ConsumerTable::default();
    let whole = scan::verify_sections(&fixed, &header, samples::seed(), |_, section| {
        if let Section::Consumers(section) = section {
            section.changes().for_each(|change| {
                table.apply(&change, header.recorded_at);
            });
        }
    });
    if whole.is_err() {
        return;
    }
    let header = ConsumerFileHeader {
        store: samples::STORE,
        incarnation: samples::INCARNATION,
        segment: 1,
        final_checksum: 0,
        last_position: header.last_position(),
        written_by: 1,
    };
    let file = ConsumerFile { header, table };
    assert_eq!(ConsumerFile::decode(&file.encode()), Ok(file));
});
