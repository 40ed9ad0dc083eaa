//! Reading the unlisted end of the log: which batches are whole, from segment or ring, up to the first that is not.
//!
//! Writes nothing; used by recovery and by read-only openings. All reading is by ordinary calls.

use std::sync::Arc;

use annals_format::Fault;
use annals_format::batch::BATCH_HEADER_LEN;
use annals_format::manifest::Manifest;
use annals_format::segment::{END_MARK_LEN, EndMark, Link, SEGMENT_HEADER_LEN, SegmentHeader};

use super::image::SegmentImage;
use super::judge::{Continuation, Next, find_batches, is_unsupported};
use super::reindex::index_batch;
use super::ring_image::{RingBytes, RingImage};
use crate::Result;
use crate::active_index::{ActiveIndex, Expected, IndexWriter};
use crate::consumer::{self, Changes};
use crate::error::Error;
use crate::log::page_ceiling;
use crate::manifest::read_whole;
use crate::name::NameHash;
use crate::prepare::segment_name;
use crate::segment::Tally;
use crate::storage::{Access, Storage, StorageFile};

/// A segment beyond the manifest's last, as the scan found it.
pub(crate) struct Scanned {
    pub(crate) header: SegmentHeader,
    pub(crate) name: String,
    pub(crate) file: Arc<dyn StorageFile>,
    /// The segment's bytes, up to `end` those that only the ring held put in their place.
    pub(crate) bytes: Vec<u8>,
    /// Behind this are nothing but zeros, which were never touched: they take no memory.
    pub(crate) written: usize,
    /// Offset from which on the ring supplied bytes.
    pub(crate) from_ring: Option<u64>,
    pub(crate) end: u64,
    pub(crate) tally: Tally,
    pub(crate) index: Arc<ActiveIndex>,
    pub(crate) end_mark: Option<EndMark>,
}

/// Why the scan ended.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Zeros: nothing was written here.
    Clean,
    /// Something stands here that is no whole batch: a torn tail, or damage.
    Torn(Fault),
    /// The segment ended properly and its successor was never begun.
    NoSuccessor,
    /// No segment follows the manifest's last.
    NoSegment,
}

/// The end of the log beyond the manifest.
pub(crate) struct Tail {
    pub(crate) segments: Vec<Scanned>,
    pub(crate) stop: Stop,
    /// The last position found whole.
    pub(crate) last_position: u64,
    pub(crate) last_time: u64,
    /// The largest `durable_upto` that any surviving batch carries, beyond the stop included.
    pub(crate) durable_upto: u64,
    /// Changes of consumers in the whole batches, each with the time of its batch.
    pub(crate) changes: Changes,
    /// Whole batches that stand beyond the stop: file, offset, first position.
    pub(crate) beyond: Vec<(String, u64, u64)>,
}

pub(crate) struct Scanner<'a> {
    pub(crate) storage: &'a dyn Storage,
    pub(crate) manifest: &'a Manifest,
    pub(crate) hash: NameHash,
    pub(crate) ring: Option<&'a RingImage>,
    /// Numbers of the segment files in the directory, ascending.
    pub(crate) numbers: &'a [u64],
}

impl Scanner<'_> {
    /// Walks every segment beyond the manifest's last.
    pub(crate) fn scan(&self) -> Result<Tail> {
        let listed = self.manifest.segments.last();
        let mut tail = Tail {
            segments: Vec::new(),
            stop: Stop::NoSegment,
            last_position: listed.map_or(0, |entry| entry.last_position),
            last_time: listed.map_or(0, |entry| entry.last_time),
            durable_upto: listed.map_or(0, |entry| entry.last_position),
            changes: Changes::new(),
            beyond: Vec::new(),
        };
        let link = listed.map(|entry| Link { number: entry.number, final_checksum: entry.final_checksum });
        let mut next = self.first_successor(link, tail.last_position + 1)?;
        while let Some(opened) = next.take() {
            let mut scanned = self.begin(opened);
            tail.stop = self.walk(&mut scanned, &mut tail)?;
            let successor = scanned.end_mark.as_ref().map(|mark| mark.next_segment);
            let link =
                Link { number: scanned.header.identity.segment, final_checksum: scanned.tally.final_checksum.value() };
            let base = page_ceiling(scanned.header.base + scanned.end + END_MARK_LEN as u64);
            tail.segments.push(scanned);
            if let Some(number) = successor {
                next = self.open_successor(number, Some(link), tail.last_position + 1, Some(base))?;
                if next.is_none() {
                    tail.stop = Stop::NoSuccessor;
                }
            }
        }
        self.look_beyond(&mut tail)?;
        Ok(tail)
    }

    /// The live segment: it links to the manifest's last one and was begun by the manifest's newest incarnation.
    fn first_successor(&self, link: Option<Link>, position: u64) -> Result<Option<Opened>> {
        let after = link.map_or(0, |link| link.number);
        for number in self.numbers.iter().copied().filter(|number| *number > after) {
            // Only the very first segment's place in the ring is known here; any other begins with a durable link.
            let base = if link.is_none() { Some(0) } else { self.base_after(link)? };
            if let Some(found) = self.open_successor(number, link, position, base)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Log offset at which the successor of a listed, sealed segment begins, if it was begun in the same opening.
    fn base_after(&self, link: Option<Link>) -> Result<Option<u64>> {
        let Some(entry) = link.and(self.manifest.segments.last()) else { return Ok(None) };
        let header = self.header_of(&segment_name(entry.number))?;
        Ok(header.map(|header| page_ceiling(header.base + entry.end + END_MARK_LEN as u64)))
    }

    /// A segment's header as its file holds it; `None` if the file cannot be opened or holds none.
    fn header_of(&self, name: &str) -> Result<Option<SegmentHeader>> {
        let Ok(file) = self.storage.open(name, Access::Read) else { return Ok(None) };
        let mut page = vec![0; SEGMENT_HEADER_LEN];
        file.read_at(0, &mut page).map_err(Error::io("read", name))?;
        Ok(SegmentHeader::decode(&page).ok().flatten())
    }

    /// Opens segment `number` if its header, in the file or in the ring at log offset `base`, continues the log.
    fn open_successor(
        &self,
        number: u64,
        link: Option<Link>,
        position: u64,
        base: Option<u64>,
    ) -> Result<Option<Opened>> {
        let name = segment_name(number);
        let file = match self.storage.open(&name, Access::ReadWrite) {
            Err(error) if super::is_denied(&error) => self.storage.open(&name, Access::Read),
            other => other,
        };
        let file = match file {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", &name)(error)),
        };
        let mut page = [0; SEGMENT_HEADER_LEN];
        let got = file.read_at(0, &mut page).map_err(Error::io("read", &name))?;
        let fits = |header: &SegmentHeader| {
            header.identity.store == self.manifest.store
                && header.identity.segment == number
                && Some(header.identity.incarnation) == self.manifest.incarnations.last().map(|i| i.incarnation)
                && header.previous == link
                && header.first_position == position
        };
        match SegmentHeader::decode(&page[..got]) {
            Ok(Some(header)) if fits(&header) => return Opened::read(header, file, &name, None).map(Some),
            Err(fault) if is_unsupported(&fault) => return Err(Error::damaged(&name, 0, None, &fault, 0)),
            _ => {}
        }
        let ring = self.ring.filter(|ring| ring.holds_log());
        if let (Some(ring), Some(base)) = (ring, base)
            && got == SEGMENT_HEADER_LEN
        {
            page.copy_from_slice(&ring.copy(base, SEGMENT_HEADER_LEN)?);
            if let Ok(Some(header)) = SegmentHeader::decode(&page)
                && fits(&header)
            {
                return Opened::read(header, file, &name, Some(&page)).map(Some);
            }
        }
        Ok(None)
    }

    fn begin(&self, opened: Opened) -> Scanned {
        let Opened { header, file, image: SegmentImage { bytes, written }, header_from_ring } = opened;
        let expected = Expected::of_written(header.segment_len, written);
        let index = Arc::new(ActiveIndex::new(expected));
        Scanned {
            name: segment_name(header.identity.segment),
            file,
            bytes,
            written,
            from_ring: header_from_ring.then_some(0),
            end: SEGMENT_HEADER_LEN as u64,
            tally: Tally::new(header.seed()),
            index,
            end_mark: None,
            header,
        }
    }

    /// Takes whole batches one after the other until something else stands there.
    fn walk(&self, segment: &mut Scanned, tail: &mut Tail) -> Result<Stop> {
        let seed = segment.header.seed();
        let mut index = IndexWriter::new(segment.index.clone());
        loop {
            let here = Continuation {
                seed,
                position: tail.last_position + 1,
                time: tail.last_time,
                final_checksum: segment.tally.final_checksum.value(),
            };
            match self.step(segment, here)? {
                Next::Batch(header) => {
                    let from = segment.end as usize;
                    let batch = &segment.bytes[from..from + header.len()];
                    let controls =
                        index_batch(&mut index, self.hash, batch, &header, seed, segment.end).map_err(|fault| {
                            Error::damaged(&segment.name, segment.end, None, &fault, segment.header.written_by)
                        })?;
                    consumer::collect(batch, &header, seed, &mut tail.changes).map_err(|fault| {
                        Error::damaged(&segment.name, segment.end, None, &fault, segment.header.written_by)
                    })?;
                    segment.tally.add(&header, batch, controls);
                    segment.end += header.len() as u64;
                    tail.last_position = header.last_position();
                    tail.last_time = header.recorded_at;
                    tail.durable_upto = tail.durable_upto.max(header.durable_upto().unwrap_or(0));
                }
                Next::End(mark) => {
                    segment.end_mark = Some(mark);
                    return Ok(Stop::Clean);
                }
                Next::Clean => return Ok(Stop::Clean),
                Next::Fault(fault) if is_unsupported(&fault) => {
                    return Err(Error::damaged(&segment.name, segment.end, None, &fault, segment.header.written_by));
                }
                Next::Fault(fault) => return Ok(Stop::Torn(fault)),
            }
        }
    }

    /// What stands at the segment's end: in its file, else in the ring.
    fn step(&self, segment: &mut Scanned, here: Continuation) -> Result<Next> {
        let at = segment.end as usize;
        let in_file = here.judge(&segment.bytes[at..]);
        if in_file.is_whole() || in_file.is_unsupported() {
            return Ok(in_file);
        }
        let Some(ring) = self.ring.filter(|ring| ring.holds_log()) else { return Ok(in_file) };
        let room = (segment.bytes.len() - at) as u64;
        let (in_ring, copy) = here.judge_ring(ring, segment.header.base + segment.end, room)?;
        if !in_ring.is_whole() {
            return Ok(in_file);
        }
        segment.bytes[at..at + copy.len()].copy_from_slice(&copy);
        segment.written = segment.written.max(at + copy.len());
        segment.from_ring.get_or_insert(segment.end);
        Ok(in_ring)
    }

    /// Whole batches beyond the stop tell a damaged middle from a torn end.
    fn look_beyond(&self, tail: &mut Tail) -> Result<()> {
        if let Some(last) = tail.segments.last() {
            let seed = last.header.seed();
            let from = last.end as usize;
            if last.end_mark.is_none() && last.written > from {
                // A header may end in zeros.
                let until = last.bytes.len().min(last.written + BATCH_HEADER_LEN);
                find_batches(&last.bytes[..until], from, seed, |offset, header| {
                    if header.first_position > tail.last_position {
                        tail.durable_upto = tail.durable_upto.max(header.durable_upto().unwrap_or(0));
                        tail.beyond.push((last.name.clone(), offset as u64, header.first_position));
                    }
                });
            }
        }
        let newest = self.manifest.incarnations.last().map(|i| i.incarnation);
        let seen = tail.segments.last().map_or(0, |last| last.header.identity.segment);
        for number in self.numbers.iter().copied().filter(|number| *number > seen) {
            let name = segment_name(number);
            // A file made ahead is all zeros: its header is enough to see that.
            let Ok(Some(header)) = self.header_of(&name) else { continue };
            if Some(header.identity.incarnation) != newest || header.first_position <= tail.last_position {
                continue;
            }
            let Ok(bytes) = read_whole(self.storage, &name, SEGMENT_LEN_MAX) else { continue };
            find_batches(&bytes, SEGMENT_HEADER_LEN, header.seed(), |offset, batch| {
                tail.durable_upto = tail.durable_upto.max(batch.durable_upto().unwrap_or(0));
                tail.beyond.push((name.clone(), offset as u64, batch.first_position));
            });
        }
        Ok(())
    }
}

/// No segment file is read beyond this, whatever its length.
pub(crate) const SEGMENT_LEN_MAX: u64 = 1 << 36;

/// A segment whose header continues the log.
struct Opened {
    header: SegmentHeader,
    file: Arc<dyn StorageFile>,
    image: SegmentImage,
    /// The file does not hold the header: the ring did.
    header_from_ring: bool,
}

impl Opened {
    /// Reads the file; `from_ring` is the header where only the ring holds it.
    fn read(
        header: SegmentHeader,
        file: Arc<dyn StorageFile>,
        name: &str,
        from_ring: Option<&[u8; SEGMENT_HEADER_LEN]>,
    ) -> Result<Self> {
        let len = file.len().map_err(Error::io("measure", name))?;
        let wrong = |len: u64| {
            let what = format!("the file is {len} bytes long, its header says {}", header.segment_len);
            Error::corrupt(name, len, None, what)
        };
        if header.segment_len != len || len > SEGMENT_LEN_MAX {
            return Err(wrong(len));
        }
        let mut image = SegmentImage::read(&*file, len).map_err(Error::io("read", name))?;
        if image.bytes.len() as u64 != len {
            return Err(wrong(image.bytes.len() as u64));
        }
        if let Some(page) = from_ring {
            image.set_header(page);
        }
        Ok(Self { header, file, image, header_from_ring: from_ring.is_some() })
    }
}
