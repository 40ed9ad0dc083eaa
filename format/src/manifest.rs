//! The manifest: what a store is, and which segments make up its log.

mod section;

use crate::field::{array_at, check_known, check_reserved, number_at, numbered_at, put, u8_at, u32_at, u64_at};
use crate::header::{Header, Purpose, Reach};
use crate::segment::SegmentKind;
use crate::{Fault, NUMBER_MAX, batch, record};
use section::Sections;

/// Length of the fixed part.
pub const MANIFEST_HEADER_LEN: usize = 256;

const HEADER: Header = Header {
    what: "manifest",
    magic: *b"ANNALMAN",
    len: MANIFEST_HEADER_LEN,
    reach: Reach::File,
    known_write: REMOVAL_FORBIDDEN,
};
const REMOVAL_FORBIDDEN: u32 = 0x01;

/// What an append without a durability of its own asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum DurabilityKind {
    /// Synced before it is answered.
    Durable,
    /// Kept from a killed process, synced later.
    Buffered,
}

/// Largest things a store takes. The format itself allows at most [`Limits::CEILING`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Limits {
    /// Bytes of payload.
    pub payload_len: u64,
    /// Bytes of metadata.
    pub metadata_len: u64,
    /// Tags of one event.
    pub tag_count: u64,
    /// Events of one batch.
    pub batch_event_count: u64,
    /// Bytes of one batch as it is written.
    pub batch_len: u64,
}

impl Limits {
    /// The largest the format can say.
    pub const CEILING: Self = Self {
        payload_len: u32::MAX as u64 / 4,
        metadata_len: u32::MAX as u64 / 4,
        tag_count: record::TAG_COUNT_MAX as u64,
        batch_event_count: batch::RECORD_COUNT_MAX as u64,
        batch_len: batch::BODY_LEN_MAX as u64,
    };

    fn values(&self) -> [u64; 5] {
        [self.payload_len, self.metadata_len, self.tag_count, self.batch_event_count, self.batch_len]
    }

    /// Whether no limit exceeds [`Limits::CEILING`], and a batch may hold something at all.
    ///
    /// # Errors
    /// `Count` with the first that does not.
    pub fn check(&self) -> Result<(), Fault> {
        if self.batch_event_count == 0 || self.batch_len == 0 {
            return Err(Fault::Count { what: "a limit", value: 0 });
        }
        let over = self.values().into_iter().zip(Self::CEILING.values()).find(|(value, ceiling)| value > ceiling);
        over.map_or(Ok(()), |(value, _)| Err(Fault::Count { what: "a limit", value }))
    }
}

impl Default for Limits {
    /// Payload 16 MiB, metadata 64 KiB, 64 tags; 65,535 events and 64 MiB a batch.
    fn default() -> Self {
        Self {
            payload_len: 16 << 20,
            metadata_len: 64 << 10,
            tag_count: 64,
            batch_event_count: 65_535,
            batch_len: 64 << 20,
        }
    }
}

/// One opening that began segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IncarnationEntry {
    /// Its id.
    pub incarnation: [u8; 16],
    /// Position from which on it wrote.
    pub first_position: u64,
}

/// A store that this one was forked from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AncestorEntry {
    /// Its id.
    pub store: [u8; 16],
    /// The newest of its incarnations at the fork.
    pub incarnation: [u8; 16],
    /// Last position that both share; 0: none.
    pub last_position: u64,
}

/// Positions whose records were lost to damage before this store was made by repair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LostEntry {
    /// First of them.
    pub first_position: u64,
    /// Last of them.
    pub last_position: u64,
}

/// A file of snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotFileEntry {
    /// Its number.
    pub number: u64,
    /// Its id.
    pub id: [u8; 16],
    /// Its length.
    pub len: u64,
    /// All before this offset was synced when the manifest was written.
    pub end: u64,
    /// Number of frames up to there.
    pub frame_count: u64,
    /// Nothing behind the end is read.
    pub is_ended: bool,
}

/// How a listed segment ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum SegmentState {
    /// By an end mark.
    Sealed,
    /// By recovery's decision: what follows is not read.
    Cut,
}

/// One segment of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentEntry {
    /// Its number.
    pub number: u64,
    /// Its generation, 0 for a live segment.
    pub generation: u64,
    /// Id of the opening that wrote it.
    pub incarnation: [u8; 16],
    /// Id of the store that wrote it.
    pub store: [u8; 16],
    /// Length of the file.
    pub len: u64,
    /// Offset of the byte after the last whole batch.
    pub end: u64,
    /// Position of its first record.
    pub first_position: u64,
    /// Position of its last record; `first_position - 1` if it holds none.
    pub last_position: u64,
    /// `recorded_at` of its first batch.
    pub first_time: u64,
    /// `recorded_at` of its last batch.
    pub last_time: u64,
    /// Checksum of all its batch headers.
    pub final_checksum: u32,
    /// How it ends.
    pub state: SegmentState,
    /// Layout of its records.
    pub kind: SegmentKind,
    /// Number of its events.
    pub event_count: u64,
    /// Whether batches of it carry typed sections.
    pub has_sections: bool,
    /// The container that holds it, if its kind is [`SegmentKind::Compacted`].
    pub compacted: Option<CompactedEntry>,
}

/// The container of a compacted segment, as the manifest knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompactedEntry {
    /// Length of the file.
    pub file_len: u64,
    /// Position of the newest removal that was looked at: what it and those before it hide is taken out. 0: none.
    pub removed_upto: u64,
    /// Number of events that were taken out.
    pub removed_count: u64,
    /// Checksum of all batch headers as they stand in the container.
    pub content_checksum: u32,
    /// Checksum that stands in the container's header: stands for every byte of the file.
    pub root: u32,
}

/// One manifest file, whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Id of the store.
    pub store: [u8; 16],
    /// One more for each manifest; also in the file's name.
    pub generation: u64,
    /// Version of the library that wrote it: `major << 16 | minor << 8 | patch`.
    pub written_by: u32,
    /// Fixed when the store was created.
    pub default_durability: DurabilityKind,
    /// Whether nothing may ever be removed from the store.
    pub removal_forbidden: bool,
    /// Seed of the hash of names and ids, random.
    pub name_hash_seed: u64,
    /// Key of the hash of removed contents, random.
    pub content_hash_key: [u8; 16],
    /// When the store was created: nanoseconds since 1970 UTC.
    pub created_at: u64,
    /// Largest ordinary segment, in bytes.
    pub segment_len_max: u64,
    /// Total length of segments that the store may reach; `None` and 0 are both "no quota".
    pub quota_bytes: Option<u64>,
    /// Largest events and batches.
    pub limits: Limits,
    /// Larger than any segment number used when this was written.
    pub next_segment: u64,
    /// Oldest first, at least one.
    pub incarnations: Vec<IncarnationEntry>,
    /// Oldest first; positions run on without a gap.
    pub segments: Vec<SegmentEntry>,
    /// Oldest first; empty for a store that is no fork.
    pub ancestors: Vec<AncestorEntry>,
    /// Ascending, none meets the next; empty unless the store was repaired.
    pub lost: Vec<LostEntry>,
    /// By number; empty for a store without snapshots.
    pub snapshots: Vec<SnapshotFileEntry>,
}

impl Manifest {
    /// The file's bytes: 272 and 112 more for each segment, 24 for each incarnation; where there are any, 8 and 8 more for each
    /// segment with typed sections, 8 and 48 more for each compacted segment, 8 and 48 more for each ancestor, 8 and 16 more for
    /// each lost range, 8 and 56 more for each file of snapshots.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; MANIFEST_HEADER_LEN];
        HEADER.begin(&mut bytes);
        put(&mut bytes, 24, if self.removal_forbidden { REMOVAL_FORBIDDEN } else { 0 }.to_le_bytes());
        put(&mut bytes, 32, self.written_by.to_le_bytes());
        bytes[36] = match self.default_durability {
            DurabilityKind::Durable => 1,
            DurabilityKind::Buffered => 2,
        };
        bytes[37..40].fill(1);
        put(&mut bytes, 40, self.store);
        put(&mut bytes, 56, self.generation.to_le_bytes());
        put(&mut bytes, 72, self.name_hash_seed.to_le_bytes());
        put(&mut bytes, 80, self.content_hash_key);
        put(&mut bytes, 96, self.created_at.to_le_bytes());
        put(&mut bytes, 104, self.segment_len_max.to_le_bytes());
        put(&mut bytes, 112, self.quota_bytes.unwrap_or(0).to_le_bytes());
        for (n, limit) in self.limits.values().into_iter().enumerate() {
            put(&mut bytes, 120 + 8 * n, limit.to_le_bytes());
        }
        put(&mut bytes, 160, self.next_segment.to_le_bytes());
        let count = section::encode(&mut bytes, self);
        put(&mut bytes, 168, count.to_le_bytes());
        let len = bytes.len() as u64;
        put(&mut bytes, 64, len.to_le_bytes());
        HEADER.finish(&mut bytes, 0);
        bytes
    }

    /// Reads and verifies the whole file, for a writer.
    ///
    /// # Errors
    /// Any [`Fault`]: of the header, of a section, or of entries that do not fit each other.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        Self::decode_for(bytes, Purpose::Write)
    }

    /// As [`Manifest::decode`], for `purpose`.
    ///
    /// # Errors
    /// As there.
    pub fn decode_for(bytes: &[u8], purpose: Purpose) -> Result<Self, Fault> {
        HEADER.check(bytes, 0, purpose)?;
        if u64_at(bytes, 64) != bytes.len() as u64 {
            return Err(Fault::Length { what: "manifest length", value: u64_at(bytes, 64) });
        }
        check_known(u8_at(bytes, 37), 1, "checksum algorithm")?;
        check_known(u8_at(bytes, 38), 1, "name-hash algorithm")?;
        check_known(u8_at(bytes, 39), 1, "content-hash version")?;
        check_reserved(bytes, 172, MANIFEST_HEADER_LEN, "reserved bytes of the manifest")?;
        let sections = Sections::decode(bytes.get(MANIFEST_HEADER_LEN..).unwrap_or_default(), u32_at(bytes, 168))?;
        let manifest = Self {
            store: array_at(bytes, 40),
            generation: numbered_at(bytes, 56, "manifest generation")?,
            written_by: u32_at(bytes, 32),
            default_durability: match u8_at(bytes, 36) {
                1 => DurabilityKind::Durable,
                2 => DurabilityKind::Buffered,
                kind => return Err(Fault::Unsupported { what: "default durability", value: kind.into() }),
            },
            removal_forbidden: u32_at(bytes, 24) & REMOVAL_FORBIDDEN != 0,
            name_hash_seed: u64_at(bytes, 72),
            content_hash_key: array_at(bytes, 80),
            created_at: u64_at(bytes, 96),
            segment_len_max: number_at(bytes, 104, "largest segment length")?,
            quota_bytes: Some(number_at(bytes, 112, "quota")?).filter(|quota| *quota > 0),
            limits: Limits {
                payload_len: u64_at(bytes, 120),
                metadata_len: u64_at(bytes, 128),
                tag_count: u64_at(bytes, 136),
                batch_event_count: u64_at(bytes, 144),
                batch_len: u64_at(bytes, 152),
            },
            next_segment: numbered_at(bytes, 160, "next segment number")?,
            incarnations: sections.incarnations,
            segments: sections.segments,
            ancestors: sections.ancestors,
            lost: sections.lost,
            snapshots: sections.snapshots,
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// What no single field can tell.
    fn check(&self) -> Result<(), Fault> {
        self.limits.check()?;
        if self.incarnations.is_empty() {
            return Err(Fault::Count { what: "number of incarnations", value: 0 });
        }
        if !self.incarnations.is_sorted_by_key(|entry| entry.first_position) {
            return Err(Fault::Order { what: "incarnations" });
        }
        if !self.ancestors.is_sorted_by_key(|entry| entry.last_position) {
            return Err(Fault::Order { what: "ancestors" });
        }
        let is_range = |entry: &LostEntry| entry.first_position <= entry.last_position;
        let is_apart = |pair: &[LostEntry]| pair[0].last_position < pair[1].first_position;
        if !self.lost.iter().all(is_range) || !self.lost.windows(2).all(is_apart) {
            return Err(Fault::Order { what: "lost ranges" });
        }
        self.snapshots.iter().try_for_each(SnapshotFileEntry::check)?;
        if !self.snapshots.windows(2).all(|pair| pair[0].number < pair[1].number) {
            return Err(Fault::Order { what: "files of snapshots" });
        }
        for (n, entry) in self.segments.iter().enumerate() {
            entry.check()?;
            if entry.number >= self.next_segment {
                return Err(Fault::Count { what: "segment number", value: entry.number });
            }
            let Some(before) = n.checked_sub(1).and_then(|before| self.segments.get(before)) else { continue };
            let expected = before.last_position.saturating_add(1);
            if entry.first_position != expected {
                return Err(Fault::Position { expected, found: entry.first_position });
            }
            if entry.number == before.number {
                return Err(Fault::Order { what: "segments" });
            }
        }
        Ok(())
    }
}

impl SnapshotFileEntry {
    fn check(&self) -> Result<(), Fault> {
        use crate::snapshot::{SNAPSHOT_ALIGN, SNAPSHOT_FRAME_LEN, SNAPSHOT_HEADER_LEN};
        let first = SNAPSHOT_HEADER_LEN as u64;
        if !self.len.is_multiple_of(crate::segment::PAGE_LEN) || self.end > self.len {
            return Err(Fault::Length { what: "length of a file of snapshots", value: self.len });
        }
        if self.end < first || !self.end.is_multiple_of(SNAPSHOT_ALIGN) {
            return Err(Fault::Length { what: "end of a file of snapshots", value: self.end });
        }
        if self.frame_count > (self.end - first) / SNAPSHOT_FRAME_LEN as u64 {
            return Err(Fault::Count { what: "number of snapshots", value: self.frame_count });
        }
        Ok(())
    }
}

impl SegmentEntry {
    /// Length of the file that holds it.
    pub fn file_len(&self) -> u64 {
        self.compacted.map_or(self.len, |container| container.file_len)
    }

    /// What the checksum of all batch headers is, as they stand in the file.
    pub fn content_checksum(&self) -> u32 {
        self.compacted.map_or(self.final_checksum, |container| container.content_checksum)
    }

    fn check(&self) -> Result<(), Fault> {
        let header_len = crate::segment::SEGMENT_HEADER_LEN as u64;
        let after = match self.state {
            SegmentState::Sealed => crate::segment::END_MARK_LEN as u64,
            SegmentState::Cut => 0,
        };
        if !self.len.is_multiple_of(crate::segment::PAGE_LEN) || self.len > NUMBER_MAX / 2 {
            return Err(Fault::Length { what: "segment length", value: self.len });
        }
        let fits = self.end.checked_add(after).is_some_and(|end| end <= self.len);
        if self.end < header_len || !self.end.is_multiple_of(8) || !fits {
            return Err(Fault::Length { what: "end of a segment", value: self.end });
        }
        // One less than the first: a segment without records.
        if self.last_position < self.first_position - 1 {
            return Err(Fault::Order { what: "first and last position of a segment" });
        }
        if self.event_count > self.last_position - (self.first_position - 1) {
            return Err(Fault::Count { what: "number of events of a segment", value: self.event_count });
        }
        if self.last_time < self.first_time {
            return Err(Fault::Order { what: "times of a segment" });
        }
        let is_compacted = self.kind == SegmentKind::Compacted;
        if is_compacted != self.compacted.is_some() || is_compacted != (self.generation > 0) {
            return Err(Fault::Order { what: "kind and generation of a segment" });
        }
        if self.compacted.is_some_and(|container| container.removed_count > self.event_count) {
            return Err(Fault::Count { what: "number of events taken out of a segment", value: self.event_count });
        }
        Ok(())
    }
}
