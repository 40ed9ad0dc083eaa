//! What tiers and directory say, held against the indexes of their segments, which were held against the segments: so a
//! wrong row is found also where every checksum is right. Then each is written again from its rows, so that every byte is seen.

use annals_format::Purpose;
use annals_format::index::{ArchivedIndexRoot, IndexBytes, open_for};
use annals_format::manifest::{Manifest, SegmentEntry};
use annals_format::segment::SegmentHeader;

use super::Check;
use crate::Result;
use crate::compacted;
use crate::directory::{self, DirectoryFile};
use crate::manifest::read_whole;
use crate::name::{KeyKind, NameHash};
use crate::prepare::index_name;
use crate::sealed_index::IndexFile;
use crate::tiers::{self, Differs, TierFile};

/// What was counted in the segments of one file, for there must be no more in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    key_positions: u64,
    ids: u64,
    tips: u64,
}

/// Whether everything that was asked for was there.
struct Asked {
    counted: Counted,
    wrong: Option<String>,
}

impl Asked {
    fn new() -> Self {
        Self { counted: Counted::default(), wrong: None }
    }

    fn expect(&mut self, is_right: bool, what: impl FnOnce() -> String) {
        if !is_right && self.wrong.is_none() {
            self.wrong = Some(what());
        }
    }
}

impl Check<'_> {
    /// A whole tier against its segments.
    pub(super) fn tier_content(&mut self, manifest: &Manifest, name: &str, tier: &TierFile) {
        let entry = tier.entry();
        let of = |segment: &&SegmentEntry| (entry.first_segment..=entry.last_segment).contains(&segment.number);
        let mut asked = Asked::new();
        let mut ask = || -> Result<Option<Counted>> {
            for segment in manifest.segments.iter().filter(of) {
                let Some(bytes) = self.index_bytes(manifest, segment) else { return Ok(None) };
                let Ok((_, root)) = open_for(&bytes, Purpose::Read) else { return Ok(None) };
                ask_tier(tier, root, segment.first_position, &mut asked)?;
            }
            tier_holds(tier, NameHash { seed: manifest.name_hash_seed }, &mut asked).map(Some)
        };
        match ask() {
            Ok(Some(held)) => {
                let of_segments = asked.counted;
                asked.expect(held == of_segments, || format!("it holds {held:?}, its segments {of_segments:?}"));
                if let Some(what) = asked.wrong {
                    self.notice(name, 0, format!("the tier is not the one that its segments give: {what}"));
                    return;
                }
            }
            // An index of a segment that is damaged is told of by itself.
            Ok(None) => {}
            Err(error) => return self.error(crate::inspect::Severity::Notice, name, &error),
        }
        self.against_itself(name, tiers::differs_from_itself(tier));
    }

    /// What no answer depends on may be wrong as well.
    fn against_itself(&mut self, name: &str, outcome: Result<Option<Differs>>) {
        match outcome {
            Ok(None) => {}
            Ok(Some(Differs { at, what })) => self.notice(name, at, what),
            Err(error) => self.error(crate::inspect::Severity::Notice, name, &error),
        }
    }

    /// A whole file of the directory against its segments.
    pub(super) fn directory_content(&mut self, manifest: &Manifest, file: &DirectoryFile) {
        let covered = file.first_position()..=file.entry().coverage;
        let of = |segment: &&SegmentEntry| {
            covered.contains(&segment.first_position) && segment.last_position >= segment.first_position
        };
        let hash = NameHash { seed: manifest.name_hash_seed };
        let mut asked = Asked::new();
        let mut ask = || -> Result<bool> {
            for segment in manifest.segments.iter().filter(of) {
                let Some(bytes) = self.index_bytes(manifest, segment) else { return Ok(false) };
                let Ok((_, root)) = open_for(&bytes, Purpose::Read) else { return Ok(false) };
                for stream in root.streams_from(b"") {
                    let Ok(text) = std::str::from_utf8(stream.name) else { continue };
                    let position = segment.first_position + u64::from(stream.last);
                    let tip = file.tip(hash.key(KeyKind::Stream, text), text)?;
                    let is_here = tip.is_some_and(|tip| tip.position == position);
                    asked.counted.tips += u64::from(is_here);
                    let is_right = tip.is_some_and(|tip| {
                        tip.position > position || (is_here && tip.revision == stream.last_revision)
                    });
                    asked.expect(is_right, || format!("stream {text:?}, at {position}: {tip:?}"));
                }
            }
            Ok(true)
        };
        match ask() {
            Ok(true) => {
                let tips = asked.counted.tips;
                asked.expect(tips == file.row_count(), || {
                    format!("it holds {} streams, of which {tips} end where it says", file.row_count())
                });
                if let Some(what) = asked.wrong {
                    self.notice(file.name(), 0, format!("the directory is not the one that its segments give: {what}"));
                    return;
                }
            }
            Ok(false) => {}
            Err(error) => return self.error(crate::inspect::Severity::Notice, file.name(), &error),
        }
        self.against_itself(file.name(), directory::differs_from_itself(file));
    }

    /// The whole index of a segment; of one that keeps places alone, as the segment gives it.
    fn index_bytes(&self, manifest: &Manifest, segment: &SegmentEntry) -> Option<IndexBytes> {
        let bytes = read_whole(self.storage, &index_name(segment.number), 1 << 31).ok()?;
        if IndexFile::kind(&bytes) == Some(IndexFile::Places) {
            let mut log =
                compacted::read_whole_segment(self.storage, &compacted::name_of(segment), segment.len).ok()?;
            let header = SegmentHeader::decode(&log).ok().flatten()?;
            log.truncate(usize::try_from(segment.end).ok()?);
            return self.made_anew(manifest, segment, header, log).ok();
        }
        let mut aligned = IndexBytes::new();
        aligned.extend_from_slice(&bytes);
        Some(aligned)
    }
}

/// Asks a tier for everything that a segment has.
fn ask_tier(tier: &TierFile, root: &ArchivedIndexRoot, first: u64, asked: &mut Asked) -> Result<()> {
    for (hash, records) in (0..root.key_count()).filter_map(|number| root.key(number)) {
        asked.counted.key_positions += records.len() as u64;
        let mut found = tier.positions(hash)?;
        for record in records.iter() {
            let position = first + u64::from(record.to_native());
            let is_there = match &mut found {
                Some(positions) => positions.seek_ge(position)? == Some(position),
                None => false,
            };
            asked.expect(is_there, || format!("key {hash:#x} at {position} is not found"));
        }
    }
    for (hash, record) in root.ids() {
        asked.counted.ids += 1;
        let position = first + u64::from(record);
        let is_there = tier.candidates_of_id(hash)?.contains(&position);
        asked.expect(is_there, || format!("the id at {position} is not found"));
    }
    for name in root.streams_from(b"").filter_map(|stream| std::str::from_utf8(stream.name).ok()) {
        let is_there = tier.streams_from(name)?.next()? == Some(name);
        asked.expect(is_there, || format!("the name of stream {name:?} is not found"));
    }
    for name in root.types_from(b"").filter_map(|found| std::str::from_utf8(found.name).ok()) {
        let is_there = tier.types_from(name)?.next()? == Some(name);
        asked.expect(is_there, || format!("the name of type {name:?} is not found"));
    }
    Ok(())
}

/// How much a tier holds; each of its names must be that of a key.
fn tier_holds(tier: &TierFile, hash: NameHash, asked: &mut Asked) -> Result<Counted> {
    let held = Counted { key_positions: tier.count_positions()?, ids: u64::from(tier.counts()?[1]), tips: 0 };
    let mut streams = tier.streams_from("")?;
    while let Some(name) = streams.next()? {
        let is_key = tier.positions(hash.key(KeyKind::Stream, name))?.is_some();
        asked.expect(is_key, || format!("no event is of stream {name:?}"));
    }
    let mut types = tier.types_from("")?;
    while let Some(name) = types.next()? {
        let is_key = tier.positions(hash.key(KeyKind::Type, name))?.is_some();
        asked.expect(is_key, || format!("no event is of type {name:?}"));
    }
    Ok(held)
}
