//! Whole stores as fuzz input: bytes say how the files of a small sound store are changed, and everything is opened and
//! read. Driven by the fuzz target `whole_store` and by an ordinary test.
//!
//! With checksums put right after the change the deep code is reached: what is forged then verifies. Whatever stands in
//! the files, nothing panics or goes on for ever, and no event is shown that does not stand, whole, in a file: either as
//! it was in the sound store, or as the change has forged it. That events are missing is no fault of a store whose index
//! or manifest was forged.

mod change;
mod checksums;
mod look;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use annals::{Durability, Options, Query, ReadMode, Seek, View};

use crate::damage::{self, Sample};
use crate::model::Recorded;
use crate::sim_disk::SimDisk;

pub use change::{Bytes, CHANGES};
pub use look::Seen;

use checksums::Places;

/// Files by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// No file of a changed store may grow beyond this together: a forged length must not make a disk's worth of files.
const CAPACITY: u64 = 8 << 20;

/// A sound store and what it holds.
pub(crate) struct Golden {
    files: Files,
    places: Places,
    events: Vec<Recorded>,
}

impl Golden {
    fn of(sample: Sample) -> Self {
        let disk = SimDisk::from_files(&sample.files);
        let store = damage::options().open_read_only_storage(Arc::new(disk)).expect("a sound store opens");
        let read = store.reader_in(View::Written).read_all(&Query::all(), Seek::Beginning).expect("a sound store");
        let events = read.map(|event| Recorded::of(event.expect("a sound event").as_event_ref())).collect();
        let places = Places::of(&sample.files);
        Self { files: sample.files, places, events }
    }
}

/// A store that was closed, one that was killed with its newest batches in the ring alone, and one with consumers.
static GOLDEN: LazyLock<[Golden; 3]> = LazyLock::new(|| {
    [Golden::of(Sample::build(0x5eed)), Golden::of(Sample::killed(0x5eed)), Golden::of(Sample::consuming(0x5eed))]
});

/// What came of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What was done to which kind of file.
    pub changes: Vec<(&'static str, &'static str)>,
    /// Checksums were put right after it.
    pub fixed: bool,
    /// What reading without writing came to.
    pub read_only: Seen,
    /// What opening for writing, appending and opening again came to.
    pub writing: Seen,
}

/// Makes the sound stores, which the first input would else have to wait and pay for.
pub fn prepare() {
    LazyLock::force(&GOLDEN);
}

/// Puts right all checksums in files that were changed, by what the sound ones show of where they stand.
pub fn checksums_put_right(sound: &Files, changed: &mut Files) {
    Places::of(sound).put_right(changed);
}

/// The sound stores' files with every checksum of a known structure cleared and put right again, beside what they were.
#[must_use]
pub fn checksums_made_anew() -> Vec<(Files, Files)> {
    let anew = |golden: &Golden| {
        let mut files = golden.files.clone();
        golden.places.clear(&mut files);
        assert!(files != golden.files, "checksums were cleared");
        golden.places.put_right(&mut files);
        (golden.files.clone(), files)
    };
    GOLDEN.iter().map(anew).collect()
}

/// Changes a store as `bytes` say, opens it in every way and reads it by every path.
///
/// # Panics
/// If an event is shown that stands in no file, if a read goes on for ever, or if the engine panics.
pub fn exercise(bytes: &[u8]) -> Outcome {
    let mut bytes = Bytes::new(bytes);
    let manner = bytes.next();
    let golden = &GOLDEN[if manner & 0x30 == 0x30 { 2 } else { usize::from(manner & 1) }];
    let fixed = manner & 0b110 != 0;
    let read_mode = if manner & 0b1000 == 0 { ReadMode::Mapped } else { ReadMode::Pread };
    let mut files = golden.files.clone();
    let mut changes = Vec::new();
    while !bytes.is_empty() && changes.len() < 16 {
        changes.extend(change::change(&mut files, &golden.places, &mut bytes));
    }
    let forged = if fixed { golden.places.put_right(&mut files) } else { Vec::new() };
    let truth = look::Truth::new(&golden.events, &forged, &files);
    let disk = || {
        let disk = SimDisk::from_files(&files);
        disk.set_capacity(Some(CAPACITY));
        disk
    };
    let options = || damage::options().read_mode(read_mode).durability(Durability::Durable);
    let changed: Vec<String> = files
        .iter()
        .filter(|(name, bytes)| golden.files.get(*name) != Some(*bytes))
        .map(|(name, _)| name.clone())
        .collect();
    let read_only = look_only(&truth, &disk(), &changed, options());
    follow(&truth, &disk(), options());
    let writing = write(truth, &disk(), &options);
    Outcome { changes, fixed, read_only, writing }
}

fn look_only(truth: &look::Truth<'_>, disk: &SimDisk, changed: &[String], options: Options) -> Seen {
    look::inspect(disk, changed);
    let seen = match options.open_read_only_storage(Arc::new(disk.clone())) {
        Ok(mut store) => {
            truth.look_along(&store.reader_in(View::Durable));
            let seen = truth.look(&store.reader_in(View::Written));
            if let Err(error) = store.refresh() {
                look::told(&error);
            }
            if let Err(error) = store.consumers() {
                look::told(&error);
            }
            seen
        }
        Err(error) => Seen::refused(&error),
    };
    // Reading writes nothing, not even repairs.
    assert_eq!(disk.unsynced(), 0, "a read-only opening wrote");
    seen
}

/// What a follower makes of it, in both views.
fn follow(truth: &look::Truth<'_>, disk: &SimDisk, options: Options) {
    for view in [View::Durable, View::Written] {
        match options.clone().view(view).follow_storage(Arc::new(disk.clone())) {
            Ok(follower) => {
                truth.look_along(&follower.reader());
                if let Err(error) = follower.refresh() {
                    look::told(&error);
                }
            }
            Err(error) => look::told(&error),
        }
    }
    assert_eq!(disk.unsynced(), 0, "a follower wrote");
}

fn write(mut truth: look::Truth<'_>, disk: &SimDisk, options: &impl Fn() -> Options) -> Seen {
    let store = match options().open_storage(Arc::new(disk.clone())) {
        Ok(store) => store,
        Err(error) => return Seen::refused(&error),
    };
    let seen = truth.look(&store.reader_in(View::Written));
    truth.append(&store);
    look::consume(&store);
    if let Err(error) = store.close() {
        look::told(&error);
    }
    match options().open_storage(Arc::new(disk.clone())) {
        Ok(store) => {
            truth.look_along(&store.reader_in(View::Written));
        }
        Err(error) => look::told(&error),
    }
    seen
}

#[cfg(test)]
mod tests {
    use annals_format::index::{self, IndexBytes};

    use super::*;

    /// A byte of a payload changed, and all checksums made anew.
    fn forged() -> (Files, Vec<checksums::Forged>) {
        let golden = &GOLDEN[0];
        let mut files = golden.files.clone();
        let wanted = &golden.events[20].content.payload;
        let (name, at) = golden
            .files
            .iter()
            .find_map(|(name, bytes)| Some((name, bytes.windows(wanted.len()).position(|bytes| bytes == wanted)?)))
            .expect("it stands in a segment");
        files.get_mut(name).expect("it is there")[at] ^= 1;
        let forged = golden.places.put_right(&mut files);
        (files, forged)
    }

    fn look(files: &Files, forged: &[checksums::Forged]) -> Seen {
        let truth = look::Truth::new(&GOLDEN[0].events, forged, files);
        look_only(&truth, &SimDisk::from_files(files), &[], damage::options())
    }

    /// Positions of one key that are out of order, twice there, or of another segment.
    #[test]
    fn positions_that_an_index_forges_are_errors_or_left_out_and_never_out_of_order() {
        let (mut events, mut errors) = (0, 0);
        for golden in &GOLDEN[..2] {
            let of_index =
                |(name, bytes): &(&String, &Vec<u8>)| name.ends_with(".idx") && bytes.starts_with(b"ANNALIDX");
            let (name, bytes) = golden.files.iter().find(of_index).expect("a segment with an index of its own");
            let mut aligned = IndexBytes::new();
            aligned.extend_from_slice(bytes);
            let (_, root) = index::open(&aligned).expect("it is sound");
            let (records, postings) = (root.record_count(), root.postings.as_slice());
            let start = postings.as_ptr().addr() - aligned.as_ptr().addr();
            for at in (0..postings.len()).step_by(11) {
                let here = postings[at].to_native();
                for forged in [records, records + here, records - 1, here + 40, here.saturating_sub(40), 0] {
                    let mut files = golden.files.clone();
                    let place = start + at * size_of::<u32>();
                    let bytes = files.get_mut(name).expect("it is there");
                    bytes[place..place + size_of::<u32>()].copy_from_slice(&forged.to_le_bytes());
                    let forged = golden.places.put_right(&mut files);
                    let truth = look::Truth::new(&golden.events, &forged, &files);
                    let seen = look_only(&truth, &SimDisk::from_files(&files), &[], damage::options());
                    (events, errors) = (events + seen.events, errors + seen.errors);
                }
            }
        }
        println!("{events} events, {errors} errors");
        assert!(events > 0 && errors > 0, "{events} events, {errors} errors");
    }

    #[test]
    fn what_stands_in_a_file_may_be_shown() {
        let (files, forged) = forged();
        let seen = look(&files, &forged);
        assert_eq!((seen.events, seen.errors), (GOLDEN[0].events.len() as u64, 0));
    }

    #[test]
    #[should_panic(expected = "invented, at 21")]
    fn what_no_checksum_made_right_may_not() {
        let (files, _) = forged();
        look(&files, &[]);
    }
}
