//! A batch written anew for another segment: same positions, revisions, times, ids, other checksums.

use annals_format::Fault;
use annals_format::batch::{BatchEncoder, BatchHeader};
use annals_format::checksum::Seed;
use annals_format::record::Record;
use annals_format::scan::{verify_batch, verify_sections};

/// Verifies the whole batch at the beginning of `bytes` and appends it to `out` as a segment of seed `new` holds it. Its
/// length stays the same. Answers its new header and the number of control records in it.
///
/// # Errors
/// What [`verify_batch`] finds; `out` then ends in bytes that are no batch.
pub(crate) fn reencode(
    bytes: &[u8],
    header: &BatchHeader,
    old: Seed,
    new: Seed,
    durable_upto: u64,
    out: &mut Vec<u8>,
) -> Result<(BatchHeader, u64), Fault> {
    let mut batch = BatchEncoder::begin(out, new, header.first_position);
    let mut controls = 0;
    verify_batch(bytes, header, old, |_, _, record| match record {
        Record::Event(event) if event.is_compacted() => {
            batch.compacted(&event);
        }
        Record::Event(event) => {
            let tags: Vec<&str> = event.tags().collect();
            batch.event(&event.parts(&tags), event.revision());
        }
        Record::Control(control) => {
            batch.control(&control);
            controls += 1;
        }
    })?;
    if header.has_sections {
        verify_sections(bytes, header, old, |_, section| batch.section(&section))?;
    }
    Ok((batch.finish(header.recorded_at, durable_upto, header.as_batch), controls))
}
