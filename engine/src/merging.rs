//! Tiers and directory kept while the store is open: made when there is quiet or when much has gathered, dropped when they
//! are broken.
//!
//! Nothing waits for it: segments without a tier answer by their own indexes, and their ids and streams stand in memory.

mod mend;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use self::mend::Mending;
use crate::compaction;
use crate::directory::{self, Pending};
use crate::error::Error;
use crate::places_file;
use crate::prepare::index_name;
use crate::recovery::{self, load_ids, rebuild_index_of};
use crate::sealed_index::IndexFile;
use crate::segment::Segment;
use crate::storage::Access;
use crate::store::Inner;
use crate::tiers::{self, Due, Replaced, ReplacedDirectory, Tiers, tier_name};

/// How often somebody looks whether there is something to do.
const LOOK: Duration = Duration::from_millis(500);
/// When no segment has ended for so long, it is quiet.
const QUIET: Duration = Duration::from_millis(200);
/// With so many segments without a tier work begins while segments go on ending. More would be less work (each row is
/// written about half as often with eight times as many), but each of them is asked by whoever asks for what is nowhere.
const BACKLOG: u64 = 32;
/// So many positions without a tier begin the work as well: the filters before their ids stand in memory, two bytes each, and
/// what passes them falsely is looked for in each of their segments.
const IDS_ENOUGH: u64 = 1 << 22;
/// With so many segments without a tier the thread is woken to look.
const SOON: u64 = 8;
/// With so many positions behind its coverage the directory is written while appends go on; else when no segment has ended
/// for a while.
const BEHIND: u64 = 1 << 18;
/// Behind the end of a segment with so many positions the directory is written at once: the writer remembers their streams
/// until then.
const LONG: u64 = 1 << 16;
/// Closing writes no more positions than these, some tenths of a second, into tiers and directory.
const REST: u64 = 1 << 18;
/// Closing merges no more positions at once than these, half a second: a store that is always closed soon after it was opened
/// would else have a tier for each time.
const LITTLE: u64 = 1 << 19;
/// Bytes of tiers and directories written in a second, at most.
const PACE: u64 = 128 << 20;

/// Where the thread that keeps the tiers sleeps.
#[derive(Debug, Default)]
pub(crate) struct Merging {
    /// Numbers of broken tiers whose ids are in memory again: a tier that cannot be dropped yet is not loaded twice.
    loaded: Mutex<Vec<u64>>,
    /// Up to this position the segments' index files hold no more than tiers do not, as far as was looked.
    shrunk: Mutex<u64>,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Merging {
    fn sleep(&self, inner: &Inner, at_most: Duration) {
        let mut guard = self.lock.lock();
        if !inner.stopping.load(Ordering::Acquire) {
            self.wake.wait_for(&mut guard, at_most);
        }
    }

    /// Wakes the thread from its sleep; it looks whether the store is closing.
    pub(crate) fn wake(&self) {
        let _guard = self.lock.lock();
        self.wake.notify_all();
    }
}

pub(crate) fn merge_loop(inner: &Inner) {
    // What an opening finds uncovered is covered at once: after a kill that is what came last, which is asked for most.
    let mut flow = Flow::new(inner);
    pass_over_shrunk(inner);
    let (mut seen, mut mending) = (Seen::default(), Mending::until(ended_until(inner)));
    // A directory in many files is read whole to be made one: not while whoever has just opened the store reads too.
    let mut has_just_opened = true;
    while !inner.stopping.load(Ordering::Acquire) {
        let is_quiet = flow.is_quiet(inner);
        let tiers_due = || is_quiet && uncovered(inner) > 0 || are_tiers_late(inner);
        let mut enough = if is_quiet { 1 } else { behind_enough(inner) };
        let is_at_rest = is_quiet && !has_just_opened;
        let scattered = is_at_rest && keeps_scattered_directory(inner);
        if tiers_due() || scattered || behind(inner) >= enough {
            let begun = Instant::now();
            let mut written = 0;
            let mut pace = |bytes: u64| {
                written += bytes;
                let due = Duration::from_secs_f64(written as f64 / PACE as f64);
                if let Some(ahead) = due.checked_sub(begun.elapsed()).filter(|ahead| *ahead > Duration::from_millis(2))
                {
                    std::thread::sleep(ahead);
                }
            };
            let mut goes_on = true;
            while goes_on && !inner.stopping.load(Ordering::Acquire) {
                goes_on = (behind(inner) >= enough || scattered)
                    && keep_directory(inner, is_at_rest, &mut pace, &inner.stopping);
                // What ends while tiers are merged is not worth a file each time.
                enough = behind_enough(inner);
                let due = if is_quiet { Due::BySize } else { Due::WhileMoreCome };
                goes_on |= tiers_due() && keep_tiers(inner, due, &mut pace, &inner.stopping);
            }
        }
        shrink_covered(inner);
        if is_quiet {
            seen.look(inner);
        }
        if is_at_rest {
            mending.go_on(inner);
        }
        compaction::attend(inner, is_quiet);
        has_just_opened = false;
        inner.merging.sleep(inner, if is_quiet { LOOK } else { QUIET });
    }
}

/// What cannot wait until this thread has done something else that takes long.
pub(crate) fn keep_up(inner: &Inner) {
    if behind(inner) >= BEHIND {
        keep_directory(inner, false, &mut |_| {}, &inner.stopping);
    }
    if are_tiers_late(inner) {
        keep_tiers(inner, Due::WhileMoreCome, &mut |_| {}, &inner.stopping);
    }
}

/// Whether so much is without a tier that one is made while segments go on ending.
fn are_tiers_late(inner: &Inner) -> bool {
    let ids_in_memory = ended_until(inner).saturating_sub(inner.core.tiers.load().covered_until());
    uncovered(inner) >= BACKLOG || ids_in_memory >= IDS_ENOUGH
}

/// Looks at the last position that has ended, not too often: woken early it would find that nothing has ended since just before.
#[derive(Debug)]
struct Flow {
    looked: Instant,
    until: u64,
    /// None has ended for a while.
    is_quiet: bool,
}

impl Flow {
    /// At opening all is quiet.
    fn new(inner: &Inner) -> Self {
        Self { looked: Instant::now(), until: ended_until(inner), is_quiet: true }
    }

    fn is_quiet(&mut self, inner: &Inner) -> bool {
        if self.looked.elapsed() >= QUIET {
            let until = ended_until(inner);
            (self.looked, self.until, self.is_quiet) = (Instant::now(), until, until == self.until);
        }
        self.is_quiet
    }
}

/// Which files of tiers and directory were verified ahead of all questions, by their numbers, and how far.
#[derive(Debug, Default)]
struct Seen(Vec<(u64, Option<u32>)>);

impl Seen {
    /// Verifies what is in memory of the files that are new, in pauses: about 0.1 ms a megabyte, which the first questions
    /// need not spend then. What is not in memory is left to who asks for it, so nothing is pushed out by this.
    fn look(&mut self, inner: &Inner) {
        let goes_on = || !inner.stopping.load(Ordering::Acquire);
        let (tiers, directory) = (inner.core.tiers.load_full(), inner.core.directory.load_full());
        let mut seen = Vec::with_capacity(tiers.iter().len() + directory.iter().len());
        for file in directory.iter() {
            let number = file.entry().number;
            seen.push((number, self.from(number).and_then(|from| file.verify_resident(from, goes_on))));
        }
        for tier in tiers.iter() {
            let number = tier.entry().number;
            seen.push((number, self.from(number).and_then(|from| tier.verify_resident(from, goes_on))));
        }
        self.0 = seen;
    }

    /// The block of this file to go on with.
    fn from(&self, number: u64) -> Option<u32> {
        self.0.iter().find(|(seen, _)| *seen == number).map_or(Some(0), |(_, from)| *from)
    }
}

/// The last position up to which every segment behind `covered` has an index file. What has one once may be found in it
/// ever after, or in what is made anew of it.
fn in_files_until(inner: &Inner, covered: u64) -> u64 {
    let segments = inner.core.segments.load();
    let from = segments.index_of(covered + 1).unwrap_or(0);
    let is_in_memory = |segment: &&Arc<Segment>| segment.closing().is_none() || segment.is_indexed_in_memory();
    segments[from..].iter().find(is_in_memory).map_or(covered, |segment| segment.first_position() - 1).max(covered)
}

/// Lets go of the ids that stand in the index files of segments.
pub(crate) fn forget_ids(inner: &Inner) {
    let forgotten = {
        let mut writer = inner.writer.lock();
        // Under its lock: what a broken tier held is loaded under it as well, and stays.
        let covered = inner.core.tiers.load().covered_until();
        writer.ids.forget_up_to(covered, in_files_until(inner, covered))
    };
    drop(forgotten);
}

/// A segment has been sealed: the memory of streams is let go of when the directory holds them, and each segment without a
/// tier is one more to ask.
pub(crate) fn ended(inner: &Inner) {
    if behind(inner) >= behind_enough(inner) || uncovered(inner) >= SOON {
        inner.merging.wake();
    }
}

/// What [`Store::check_index`](crate::Store::check_index) found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexCheck {
    /// Files of the index that were looked at.
    pub files: u64,
    /// Those that were damaged or missing and were made anew, or are answered for by the files beneath until they are.
    pub rebuilt: Vec<String>,
}

/// Looks at every file of the index; what is damaged is made anew.
pub(crate) fn check(inner: &Inner) -> crate::Result<IndexCheck> {
    let mut check = IndexCheck::default();
    for segment in inner.core.segments.load().iter().filter(|segment| segment.is_listed()) {
        segment.opened()?;
        check.files += 1;
    }
    check.rebuilt = inner.core.cache.take_rebuilt();
    for tier in inner.core.tiers.load().iter() {
        check.files += 1;
        if tier.is_broken() || tier.check_all().is_err() {
            check.rebuilt.push(tier_name(tier.entry().number));
        }
    }
    for file in inner.core.directory.load().iter() {
        check.files += 1;
        if file.is_broken() || file.check_all().is_err() {
            check.rebuilt.push(file.name().to_owned());
        }
    }
    // One that is not the newest is never read; all the same nothing that is damaged stays.
    let names = recovery::list(inner.storage.as_ref())?;
    let store = inner.sealing.lock().manifest.clone();
    let manifests = tiers::manifests(inner.storage.as_ref(), &names, &store);
    check.files += manifests.len() as u64;
    let damaged: Vec<String> = tiers::unsound_manifests(&manifests).collect();
    let renews = !damaged.is_empty();
    check.rebuilt.extend(damaged);
    while keep(inner) {}
    shrink_all(inner);
    if renews && renew_manifests(inner).is_err() {
        failed(inner);
    }
    Ok(check)
}

/// Writes the index manifest so often that none of those before is kept.
fn renew_manifests(inner: &Inner) -> crate::Result<()> {
    let mut keeper = inner.tier_keeper.lock();
    check_open(inner)?;
    (0..tiers::MANIFESTS_KEPT).try_for_each(|_| keeper.renew(inner.storage.as_ref()))
}

/// Makes all of the index anew: first that of each segment, then what stands above them. What cannot be made is told: until
/// somebody makes it, the indexes of the segments answer.
pub(crate) fn rebuild(inner: &Inner, progress: &mut dyn FnMut(u64, u64)) -> crate::Result<IndexCheck> {
    let mut rebuilt = IndexCheck::default();
    let numbers: Vec<u64> = inner.sealing.lock().manifest.segments.iter().map(|entry| entry.number).collect();
    let all = 2 * numbers.len() as u64;
    for number in numbers {
        if rebuild_segment(inner, number)? {
            rebuilt.rebuilt.push(index_name(number));
        }
        rebuilt.files += 1;
        progress(rebuilt.files, all);
    }
    let segments = inner.core.segments.load_full();
    {
        // What is being made meanwhile of indexes of before is in place when the lock is had.
        let mut keeper = inner.tier_keeper.lock();
        keeper.try_all_again();
        inner.core.tiers.load().iter().for_each(|tier| tier.set_broken());
        inner.core.directory.load().iter().for_each(|file| file.set_broken());
    }
    while try_keep(inner)? {
        let covered = inner.core.tiers.load().covered_segments(&segments).min(all / 2);
        progress(all / 2 + covered, all);
    }
    *inner.merging.shrunk.lock() = 0;
    try_shrink_covered(inner)?;
    check_open(inner)?;
    rebuilt.rebuilt.extend(inner.core.tiers.load().iter().map(|tier| tier_name(tier.entry().number)));
    rebuilt.rebuilt.extend(inner.core.directory.load().iter().map(|file| file.name().to_owned()));
    renew_manifests(inner)?;
    rebuilt.files = rebuilt.rebuilt.len() as u64;
    progress(all, all);
    Ok(rebuilt)
}

/// Makes the index of the listed segment of this number anew; false if there is none any more.
fn rebuild_segment(inner: &Inner, number: u64) -> crate::Result<bool> {
    let listed = || {
        let entry = inner.sealing.lock().manifest.segments.iter().find(|entry| entry.number == number).cloned()?;
        let segments = inner.core.segments.load();
        let segment = segments.iter().find(|segment| segment.header.identity.segment == number)?;
        Some((entry, segment.clone()))
    };
    let (storage, mode, hash) = (inner.storage.as_ref(), inner.core.read_mode, inner.core.hash);
    let mut now = listed();
    while let Some((entry, segment)) = now {
        // Whoever seals writes the file by the same name.
        let turn = inner.seal_turn.lock();
        check_open(inner)?;
        match segment.replacing_index(|| rebuild_index_of(storage, &entry, mode, hash)) {
            Ok(index) => {
                segment.set_index(index);
                return Ok(true);
            }
            Err(error) => {
                drop(turn);
                now = listed();
                // Else it was compacted meanwhile: the file that was to be read is another.
                if now.as_ref().is_some_and(|(newest, _)| *newest == entry) {
                    return Err(error);
                }
            }
        }
    }
    Ok(false)
}

/// What is made ends early where the store is being closed.
fn check_open(inner: &Inner) -> crate::Result<()> {
    match inner.stopping.load(Ordering::Acquire) {
        true => Err(Error::Poisoned { reason: "the store is closed".to_owned() }),
        false => Ok(()),
    }
}

/// Before the store is given to another writer: returns when nobody writes a file of the index any more. Whoever comes later
/// sees that it is closed.
pub(crate) fn wait_for_the_last(inner: &Inner) {
    inner.core.cache.end_writing(&inner.core.segments.load());
    drop(inner.seal_turn.lock());
    drop(inner.tier_keeper.lock());
    drop(inner.merging.shrunk.lock());
}

/// All that is due, in the calling thread.
pub(crate) fn merge_all(inner: &Inner) {
    while keep(inner) {}
    shrink_covered(inner);
}

/// Before a clean close: what ended segments hold beyond tiers and directory is written to them, if it is little, so that
/// the next opening need not touch these segments.
pub(crate) fn cover_rest(inner: &Inner) {
    let stop = AtomicBool::new(false);
    let ended = ended_until(inner);
    let behind_tiers = || ended.saturating_sub(inner.core.tiers.load().covered_until());
    let mut goes_on = behind_tiers() <= REST;
    while goes_on && behind_tiers() > 0 {
        goes_on = keep_tiers(inner, Due::Rest, &mut |_| {}, &stop);
    }
    // Where a tier is broken, or much is left, the next opening sees to it.
    while behind_tiers() == 0 && keep_tiers(inner, Due::Little(LITTLE), &mut |_| {}, &stop) {}
    let mut goes_on = behind(inner) <= REST;
    while goes_on {
        // Few writes: whoever closes waits for them.
        goes_on = keep_directory(inner, false, &mut |_| {}, &stop);
    }
}

/// Drops what is broken, or makes one tier and one file of the directory; false if there was nothing to do, or if it failed.
fn keep(inner: &Inner) -> bool {
    let goes_on = keep_directory(inner, true, &mut |_| {}, &inner.stopping);
    keep_tiers(inner, Due::BySize, &mut |_| {}, &inner.stopping) || goes_on
}

/// As [`keep`], for who must know that it failed.
fn try_keep(inner: &Inner) -> crate::Result<bool> {
    let goes_on = try_keep_directory(inner, true, &mut |_| {}, &inner.stopping)?;
    Ok(try_keep_tiers(inner, Due::BySize, &mut |_| {}, &inner.stopping)? || goes_on)
}

/// After a compaction: what ended segments hold beyond tiers and directory is written to them, and the index files of those that
/// are compacted keep packed places alone.
pub(crate) fn pack_compacted(inner: &Inner) {
    let behind_tiers = || ended_until(inner) > inner.core.tiers.load().covered_until();
    while behind_tiers() && keep_tiers(inner, Due::Rest, &mut |_| {}, &inner.stopping) {}
    while keep_directory(inner, true, &mut |_| {}, &inner.stopping) {}
    shrink_all(inner);
}

/// With so many positions behind its coverage the directory is written while appends go on.
fn behind_enough(inner: &Inner) -> u64 {
    let segments = inner.core.segments.load();
    let [.., last, _] = &segments[..] else { return BEHIND };
    let positions = segments.last().map_or(0, |live| live.first_position()) - last.first_position();
    if positions >= LONG { 1 } else { BEHIND }
}

/// Positions of ended segments that the directory does not cover.
fn behind(inner: &Inner) -> u64 {
    ended_until(inner).saturating_sub(inner.core.directory.load().coverage())
}

/// Positions of ended segments that tiers or directory do not cover.
pub(crate) fn index_behind(inner: &Inner) -> u64 {
    let in_tiers = inner.core.tiers.load().covered_until();
    ended_until(inner).saturating_sub(in_tiers).max(behind(inner))
}

/// The last position of the segments that the manifest lists.
fn ended_until(inner: &Inner) -> u64 {
    let segments = inner.core.segments.load();
    let listed = segments.iter().rev().find(|segment| segment.is_listed());
    // One that is empty ends before it begins.
    let last_of = |segment: &Arc<Segment>| {
        let closing = segment.closing().map_or(0, |closing| closing.tally.last_position);
        closing.max(segment.first_position() - 1)
    };
    listed.map_or(0, last_of)
}

/// Whether files of the directory stand beside each other that would be one, had they been written in quiet.
fn keeps_scattered_directory(inner: &Inner) -> bool {
    directory::is_scattered(&inner.core.directory.load())
}

/// Drops what is broken of the directory, or adds to it; false if there was nothing to do, or if it failed. In quiet, few files
/// are worth more than few writes.
fn keep_directory(inner: &Inner, is_quiet: bool, pace: &mut dyn FnMut(u64), stop: &AtomicBool) -> bool {
    try_keep_directory(inner, is_quiet, pace, stop).unwrap_or_else(|_| failed(inner))
}

fn try_keep_directory(
    inner: &Inner,
    is_quiet: bool,
    pace: &mut dyn FnMut(u64),
    stop: &AtomicBool,
) -> crate::Result<bool> {
    let mut keeper = inner.tier_keeper.lock();
    if stop.load(Ordering::Acquire) {
        return Ok(false);
    }
    let storage = inner.storage.as_ref();
    let directory = inner.core.directory.load_full();
    let must_drop = directory.is_broken();
    let replaced = if must_drop {
        keeper.drop_broken_directory(storage, &directory).map(Some)
    } else if behind(inner) == 0 && !(is_quiet && directory::is_scattered(&directory)) {
        return Ok(false);
    } else {
        let manifest = inner.sealing.lock().manifest.clone();
        let pending = Pending::after(directory.coverage(), &inner.core.segments.load(), &manifest.segments);
        if pending.is_empty() && !(is_quiet && directory::is_scattered(&directory)) {
            return Ok(false);
        }
        keeper.extend_directory(storage, &directory, (&pending, is_quiet), &manifest, pace, stop)
    };
    match replaced {
        Ok(Some(replaced)) => {
            install_directory(inner, &replaced);
            Ok(true)
        }
        Ok(None) => Ok(false),
        // One that turned out to be broken is dropped by the next call.
        Err(_) if !must_drop && directory.is_broken() => Ok(true),
        Err(error) => Err(error),
    }
}

/// Shows the directory to writer and readers, then lets go of what it holds instead.
fn install_directory(inner: &Inner, replaced: &ReplacedDirectory) {
    let forgotten = {
        let mut writer = inner.writer.lock();
        inner.core.directory.store(Arc::new(replaced.directory.clone()));
        writer.streams.forget_up_to(replaced.directory.coverage())
    };
    drop(forgotten);
    // What stays is removed at the next opening.
    let _ = replaced.remove_files(inner.storage.as_ref());
}

/// As [`shrink_covered`], from the first segment on.
fn shrink_all(inner: &Inner) {
    *inner.merging.shrunk.lock() = 0;
    shrink_covered(inner);
}

/// So many segments that keep places alone, one after the other from the newest that is covered, and those before them are
/// taken to do so too.
const SHRUNK_IN_A_ROW: u32 = 16;

/// What earlier openings have shrunk need not be looked at file by file: they went from the oldest to the newest. What is
/// taken for small and is not costs room alone, until [`Store::check_index`](crate::Store::check_index).
fn pass_over_shrunk(inner: &Inner) {
    let mut shrunk = inner.merging.shrunk.lock();
    let covered = inner.core.tiers.load().covered_until().min(inner.core.directory.load().coverage());
    let listed = inner.sealing.lock().manifest.segments.clone();
    let mut in_a_row = 0;
    for entry in listed[..listed.partition_point(|entry| entry.last_position <= covered)].iter().rev() {
        let name = index_name(entry.number);
        let file = inner.storage.open(&name, Access::Read);
        let kind = file.ok().and_then(|file| IndexFile::kind_of(&*file, &name).ok().flatten());
        in_a_row = if kind == Some(IndexFile::Places) { in_a_row + 1 } else { 0 };
        if in_a_row == SHRUNK_IN_A_ROW {
            *shrunk = (*shrunk).max(entry.last_position);
            return;
        }
    }
}

/// Lets go of what tiers and directory hold as well: the index files of the segments that they cover keep places alone.
/// Those of earlier openings are looked at once, and found small by their first bytes.
fn shrink_covered(inner: &Inner) {
    if try_shrink_covered(inner).is_err() {
        failed(inner);
    }
}

fn try_shrink_covered(inner: &Inner) -> crate::Result<()> {
    let mut shrunk = inner.merging.shrunk.lock();
    let covered = inner.core.tiers.load().covered_until().min(inner.core.directory.load().coverage());
    // Below a tier that was dropped meanwhile, segments have whole indexes again.
    *shrunk = (*shrunk).min(covered);
    if *shrunk == covered {
        return Ok(());
    }
    let listed = inner.sealing.lock().manifest.segments.clone();
    let segments = inner.core.segments.load_full();
    for entry in &listed[listed.partition_point(|entry| entry.last_position <= *shrunk)..] {
        if entry.last_position > covered || inner.stopping.load(Ordering::Acquire) {
            return Ok(());
        }
        let number = |segment: &Arc<Segment>| segment.header.identity.segment;
        let Ok(at) = segments.binary_search_by_key(&entry.number, number) else { return Ok(()) };
        // It could not be listed when it was sealed: what is open of it stays.
        if !segments[at].is_listed() {
            return Ok(());
        }
        let (storage, mode, hash) = (inner.storage.as_ref(), inner.core.read_mode, inner.core.hash);
        match places_file::shrink(storage, &segments[at], entry, mode, hash) {
            // What is missing or damaged is made anew when somebody comes to it.
            Ok(_) | Err(Error::Corrupt { .. } | Error::Unsupported { .. }) => {
                *shrunk = entry.last_position.max(*shrunk)
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Number of segments that no sound tier covers.
fn uncovered(inner: &Inner) -> u64 {
    let segments = inner.core.segments.load();
    segments.len() as u64 - inner.core.tiers.load().covered_segments(&segments)
}

/// Drops what is broken, or merges once; false if there was nothing to do, or if it failed.
fn keep_tiers(inner: &Inner, which: Due, pace: &mut dyn FnMut(u64), stop: &AtomicBool) -> bool {
    try_keep_tiers(inner, which, pace, stop).unwrap_or_else(|_| failed(inner))
}

fn try_keep_tiers(inner: &Inner, which: Due, pace: &mut dyn FnMut(u64), stop: &AtomicBool) -> crate::Result<bool> {
    let mut keeper = inner.tier_keeper.lock();
    if stop.load(Ordering::Acquire) {
        return Ok(false);
    }
    let storage = inner.storage.as_ref();
    let tiers = inner.core.tiers.load_full();
    if keeper.must_drop(&tiers) {
        // The ids that only these hold are in memory again before they are dropped.
        let broken = tiers.broken();
        load_ids_of(inner, &tiers, &broken)?;
        let replaced = keeper.drop_broken(storage, &tiers, &broken)?;
        replaced.iter().for_each(|replaced| install(inner, replaced));
        return Ok(replaced.is_some());
    }
    let segments = inner.core.segments.load_full();
    let manifest = inner.sealing.lock().manifest.clone();
    match keeper.merge_next(storage, &tiers, &segments, &manifest, (which, stop), pace) {
        Ok(Some(replaced)) => {
            install(inner, &replaced);
            Ok(true)
        }
        Ok(None) => Ok(false),
        // One that turned out to be broken is dropped by the next call.
        Err(_) if tiers.iter().any(|tier| tier.is_broken()) => Ok(true),
        Err(error) => Err(error),
    }
}

fn failed(inner: &Inner) -> bool {
    inner.sealing.lock().failures += 1;
    false
}

/// Shows the tiers to writer and readers, then lets go of what they hold instead.
fn install(inner: &Inner, replaced: &Replaced) {
    let tiers = Arc::new(replaced.tiers.clone());
    let covered = tiers.covered_until();
    let forgotten = {
        let mut writer = inner.writer.lock();
        writer.tiers = tiers.clone();
        inner.core.tiers.store(tiers);
        writer.ids.forget_up_to(covered, in_files_until(inner, covered))
    };
    drop(forgotten);
    // What stays is removed at the next opening.
    let _ = replaced.remove_files(inner.storage.as_ref());
}

fn load_ids_of(inner: &Inner, tiers: &Tiers, numbers: &[u64]) -> crate::Result<()> {
    let segments = inner.core.segments.load_full();
    let mut loaded = inner.merging.loaded.lock();
    for tier in tiers.iter().filter(|tier| numbers.contains(&tier.entry().number)) {
        let number = tier.entry().number;
        if loaded.contains(&number) {
            continue;
        }
        let covered = tier.entry().first_segment..=tier.entry().last_segment;
        for segment in segments.iter().filter(|segment| covered.contains(&segment.header.identity.segment)) {
            load_ids(segment, &mut inner.writer.lock().ids)?;
        }
        loaded.push(number);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
