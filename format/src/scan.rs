//! Walking a segment: what stands at a place, and whether a batch is whole.

use crate::Fault;
use crate::batch::{BATCH_HEADER_LEN, BatchHeader};
use crate::checksum::{ChecksumList, Seed};
use crate::field::{array_at, u8_at, u32_at};
use crate::header::Purpose;
use crate::record::{self, Record};
use crate::section::Section;
use crate::segment::{END_MARK_KIND, EndMark};

/// What stands where a batch may begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The header of a batch; its records are not verified yet.
    Batch(BatchHeader),
    /// The end mark: the log goes on in the next segment.
    End(EndMark),
    /// Eight zero bytes: nothing was written here yet.
    Clean,
}

/// Looks at what stands at the beginning of `bytes`, for a writer.
///
/// # Errors
/// Any [`Fault`]: a torn write and damage look the same. `Unsupported` only for intact bytes.
#[inline]
pub fn next(bytes: &[u8], seed: Seed) -> Result<Step, Fault> {
    next_for(bytes, seed, Purpose::Write)
}

/// As [`next`], for `purpose`.
///
/// # Errors
/// As there.
#[inline]
pub fn next_for(bytes: &[u8], seed: Seed, purpose: Purpose) -> Result<Step, Fault> {
    if bytes.len() < 8 {
        return Err(Fault::Truncated { need: 8, have: bytes.len() as u64 });
    }
    if array_at(bytes, 0) == [0u8; 8] {
        return Ok(Step::Clean);
    }
    if u8_at(bytes, 4) == END_MARK_KIND {
        return EndMark::decode_for(bytes, seed, purpose).map(Step::End);
    }
    BatchHeader::decode_for(bytes, seed, purpose).map(Step::Batch)
}

/// Verifies the whole batch at the beginning of `bytes`, whose header was decoded from there, for a writer.
///
/// Calls `each` with the offset of a record in the batch, its position, and the record, as soon as that record verifies:
/// before it is known whether the rest does.
///
/// # Errors
/// The first [`Fault`] met; the batch is not whole then.
#[inline]
pub fn verify_batch<'a>(
    bytes: &'a [u8],
    header: &BatchHeader,
    seed: Seed,
    each: impl FnMut(usize, u64, Record<'a>),
) -> Result<(), Fault> {
    verify_batch_for(bytes, header, seed, Purpose::Write, each)
}

/// As [`verify_batch`], for `purpose`.
///
/// # Errors
/// As there.
pub fn verify_batch_for<'a>(
    bytes: &'a [u8],
    header: &BatchHeader,
    seed: Seed,
    purpose: Purpose,
    each: impl FnMut(usize, u64, Record<'a>),
) -> Result<(), Fault> {
    verify_all(bytes, header, seed, purpose, each, |_, _| {})
}

/// As [`verify_batch`], for a batch whose typed sections are wanted as well: calls `each_section` with the offset of a
/// section in the batch and the section, as soon as that one verifies.
///
/// # Errors
/// As there.
pub fn verify_sections<'a>(
    bytes: &'a [u8],
    header: &BatchHeader,
    seed: Seed,
    each_section: impl FnMut(usize, Section<'a>),
) -> Result<(), Fault> {
    verify_all(bytes, header, seed, Purpose::Write, |_, _, _| {}, each_section)
}

/// As [`verify_batch_for`], with records and sections.
///
/// # Errors
/// As there.
pub fn verify_all<'a>(
    bytes: &'a [u8],
    header: &BatchHeader,
    seed: Seed,
    purpose: Purpose,
    mut each: impl FnMut(usize, u64, Record<'a>),
    mut each_section: impl FnMut(usize, Section<'a>),
) -> Result<(), Fault> {
    let have = bytes.len() as u64;
    let Some(batch) = bytes.get(..header.len()) else {
        return Err(Fault::Truncated { need: header.len() as u64, have });
    };
    let mut checksums = ChecksumList::new(seed);
    let mut at = BATCH_HEADER_LEN;
    for n in 0..header.record_count {
        let frame = batch.get(at..).unwrap_or_default();
        let position = header.first_position.saturating_add(n.into());
        let record = record::decode_for(frame, seed, position, purpose)?;
        checksums.push(u32_at(frame, 0));
        each(at, position, record);
        at += record.frame_len();
    }
    if header.has_sections {
        // At least one, up to the end of the body.
        let mut last_kind = 0;
        loop {
            let rest = batch.get(at..).unwrap_or_default();
            let (section, checksum) = Section::decode(rest, seed, header.first_position, purpose)?;
            let kind = u8_at(rest, 8);
            if kind <= last_kind {
                return Err(Fault::Order { what: "sections" });
            }
            last_kind = kind;
            checksums.push(checksum);
            each_section(at, section);
            at += section.bytes().len();
            if at >= batch.len() {
                break;
            }
        }
    }
    if at != batch.len() {
        return Err(Fault::Length { what: "length of the batch's body", value: header.body_len.into() });
    }
    let expected = checksums.finish();
    if expected != header.records_checksum {
        return Err(Fault::Checksum { what: "records' checksums", expected, found: header.records_checksum });
    }
    Ok(())
}
