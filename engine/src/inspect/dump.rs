//! Every byte of a segment's file, by the names of its fields.

mod fields;

use annals_format::batch::{BATCH_HEADER_LEN, BatchHeader};
use annals_format::checksum::{Identity, Seed};
use annals_format::manifest::SegmentState;
use annals_format::record;
use annals_format::scan::{self, Step};
use annals_format::section::Section;
use annals_format::segment::{END_MARK_LEN, SEGMENT_HEADER_LEN, SegmentHeader};

use super::survey::{Survey, Unchanged};
use super::verify::next_whole_header;
use crate::Result;
use crate::compacted;
use crate::error::Error;
use crate::prepare::segment_name;
use crate::recovery::scan::SEGMENT_LEN_MAX;
use crate::storage::Storage;
use fields::{BATCH, END_MARK, HEADER, Row};

/// A field of a file, or a structure that holds fields.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Field {
    /// Byte offset in the file.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Name, as in the description of the format.
    pub name: String,
    /// Its value in words.
    pub value: String,
    /// What is wrong with it, if anything is.
    pub fault: Option<String>,
    /// How deep it lies: 0 for structures of the file, 1 for their fields and for records, 2 for fields of records.
    pub depth: u8,
}

pub(super) fn dump(storage: &dyn Storage, number: u64, sink: &mut dyn FnMut(Field)) -> Result<()> {
    let storage = &Unchanged(storage);
    let survey = Survey::new(storage)?;
    let entry = survey.manifest().and_then(|manifest| manifest.segments.iter().find(|entry| entry.number == number));
    // What a container holds stands at the offsets of the segment.
    let name = entry.map_or_else(|| segment_name(number), compacted::name_of);
    if !survey.has(&name) {
        return Err(Error::corrupt(&name, 0, None, "the file is missing"));
    }
    let read = || compacted::read_whole_segment(storage, &name, SEGMENT_LEN_MAX);
    let mut bytes = read()?;
    let known = survey.manifest().map(|manifest| {
        let entry = manifest.segments.iter().find(|entry| entry.number == number);
        let newest = manifest.incarnations.last().map_or([0; 16], |entry| entry.incarnation);
        let incarnation = entry.map_or(newest, |entry| entry.incarnation);
        let cut = entry.filter(|entry| entry.state == SegmentState::Cut).map(|entry| entry.end as usize);
        (Identity { store: manifest.store, incarnation, segment: number }, cut)
    });
    let header = SegmentHeader::decode(&bytes);
    let identity = match (&header, known) {
        (Ok(Some(header)), _) => header.identity,
        // What the damaged header says of itself proves nothing.
        (_, Some((identity, _))) => identity,
        _ => Identity { store: [0; 16], incarnation: [0; 16], segment: number },
    };
    if entry.is_none() {
        bytes = settled(bytes, Seed::of(&identity), read)?;
    }
    let mut dumper = Dumper { bytes: &bytes, seed: Seed::of(&identity), sink };
    dumper.header(header.err().map(|fault| fault.to_string()));
    let until = known.and_then(|(_, cut)| cut).unwrap_or(bytes.len()).min(bytes.len());
    dumper.body(until);
    if until < bytes.len() {
        dumper.show(0, until, bytes.len() - until, "cut off", "recovery ended the segment here", None);
    }
    Ok(())
}

/// The bytes of a segment without the batch that a writer is putting there: what is not whole and has become whole when it
/// is read again was no damage. What comes behind it is shown as not written yet.
fn settled(bytes: Vec<u8>, seed: Seed, read: impl Fn() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let whole = whole_until(&bytes, seed);
    if bytes[whole..].iter().all(|byte| *byte == 0) {
        return Ok(bytes);
    }
    let mut again = read()?;
    let now = whole_until(&again, seed);
    if now <= whole {
        return Ok(bytes);
    }
    again[now..].fill(0);
    Ok(again)
}

/// Offset of the first byte that belongs to no whole batch and no end mark.
fn whole_until(bytes: &[u8], seed: Seed) -> usize {
    let mut at = SEGMENT_HEADER_LEN.min(bytes.len());
    loop {
        let rest = &bytes[at..];
        at += match scan::next(rest, seed) {
            Ok(Step::Batch(header)) if scan::verify_batch(rest, &header, seed, |_, _, _| {}).is_ok() => header.len(),
            Ok(Step::End(_)) => return at + END_MARK_LEN,
            _ => return at,
        };
    }
}

struct Dumper<'a> {
    bytes: &'a [u8],
    seed: Seed,
    sink: &'a mut dyn FnMut(Field),
}

impl Dumper<'_> {
    fn show(
        &mut self,
        depth: u8,
        offset: usize,
        len: usize,
        name: &str,
        value: impl Into<String>,
        fault: Option<String>,
    ) {
        let (offset, len) = (offset as u64, len as u64);
        (self.sink)(Field { offset, len, name: name.to_owned(), value: value.into(), fault, depth });
    }

    /// The fields of a structure that begins at `at`, as far as the file goes.
    fn rows(&mut self, depth: u8, at: usize, rows: &[Row]) {
        for row in rows {
            if let Some(field) = self.bytes.get(at + row.at..at + row.at + row.len) {
                self.show(depth, at + row.at, row.len, row.name, row.form.text(field), None);
            }
        }
    }

    fn header(&mut self, fault: Option<String>) {
        let len = SEGMENT_HEADER_LEN.min(self.bytes.len());
        self.show(0, 0, len, "segment header", "", fault);
        self.rows(1, 0, HEADER);
    }

    fn body(&mut self, until: usize) {
        let mut at = SEGMENT_HEADER_LEN;
        while at < until {
            let rest = &self.bytes[at..until];
            let len = match scan::next(rest, self.seed) {
                Ok(Step::Batch(header)) => self.batch(at, until, &header),
                Ok(Step::End(_)) => {
                    self.show(0, at, END_MARK_LEN, "end mark", "", None);
                    self.rows(1, at, END_MARK);
                    END_MARK_LEN
                }
                Ok(Step::Clean) => {
                    let len = rest.iter().position(|byte| *byte != 0).map_or(rest.len(), |first| first & !7);
                    self.show(0, at, len, "zeros", "", None);
                    len
                }
                Err(fault) => {
                    let next = next_whole_header(&self.bytes[..until], at + 8, self.seed).unwrap_or(until);
                    self.show(0, at, next - at, "no batch", "", Some(fault.to_string()));
                    next - at
                }
            };
            at += len;
        }
    }

    /// A batch whose header verifies; answers its length.
    fn batch(&mut self, at: usize, until: usize, header: &BatchHeader) -> usize {
        let bytes = &self.bytes[at..until.min(at.saturating_add(header.len()))];
        let whole = scan::verify_batch(bytes, header, self.seed, |_, _, _| {});
        let value = format!("positions {} to {}", header.first_position, header.last_position());
        self.show(0, at, bytes.len(), "batch", value, whole.err().map(|fault| fault.to_string()));
        self.rows(1, at, BATCH);
        let mut frame = BATCH_HEADER_LEN;
        for n in 0..header.record_count {
            let rest = bytes.get(frame..).unwrap_or_default();
            let position = header.first_position + u64::from(n);
            let decoded = record::decode(rest, self.seed, position);
            let Some(len) = record::frame_len(rest).ok().filter(|len| *len <= rest.len()) else {
                let fault = decoded.err().map(|fault| fault.to_string());
                self.show(1, at + frame, rest.len(), "record", format!("position {position}"), fault);
                break;
            };
            let fault = decoded.as_ref().err().map(|fault| fault.to_string());
            self.show(1, at + frame, len, "record", format!("position {position}"), fault);
            self.record(at + frame, len, decoded.is_ok());
            frame += len;
        }
        if header.has_sections {
            self.sections(at, header);
        }
        bytes.len()
    }

    /// The typed sections of the batch at `at`, as far as they verify.
    fn sections(&mut self, at: usize, header: &BatchHeader) {
        let all = self.bytes;
        let mut found = Vec::new();
        // What is wrong is said of the batch.
        let _ = scan::verify_sections(&all[at..], header, self.seed, |offset, section| found.push((offset, section)));
        for (offset, section) in found {
            let Section::Consumers(consumers) = section else {
                self.show(1, at + offset, section.bytes().len(), "section", "of a kind that is not known", None);
                continue;
            };
            self.show(1, at + offset, section.bytes().len(), "section", "consumers", None);
            for (inside, len, change) in consumers.changes_at() {
                let value = format!("{:?} generation {}: {:?}", change.consumer, change.generation, change.what);
                self.show(2, at + offset + inside, len, "change", value, None);
            }
        }
    }

    fn record(&mut self, at: usize, len: usize, is_whole: bool) {
        let frame = &self.bytes[at..at + len];
        for part in fields::of_record(frame, is_whole) {
            self.show(2, at + part.at, part.len, part.name, part.form.text(&frame[part.at..part.at + part.len]), None);
        }
    }
}

#[cfg(test)]
mod tests;
