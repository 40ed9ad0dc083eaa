//! A writer that compacts all the time, killed again and again beside followers in other processes; and those who die half
//! way beside compaction, which hold nothing once they are gone.
//!
//! 20 kills, 200 with `ANNALS_LONG=1`; `ANNALS_STATES` says any other number, `ANNALS_SEED` repeats what is left to chance.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use annals::{CompactionOptions, Durability, EventId, Expect, Lookup, NewEvent, Options, Query, Seek, Store, inspect};
use annals_tests::crash::killed::{events_of, stream_of};
use annals_tests::crash::{how_many, seed};
use annals_tests::model::ManualClock;
use annals_tests::sim_disk::Dice;

/// A process that tells what it does.
struct Telling {
    child: Child,
    input: Option<ChildStdin>,
    lines: Arc<Mutex<Vec<String>>>,
    listener: JoinHandle<()>,
}

impl Telling {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_compact_child"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let listener = std::thread::spawn({
            let lines = lines.clone();
            move || output.map_while(Result::ok).for_each(|line| lines.lock().unwrap().push(line))
        });
        let input = child.stdin.take();
        Self { child, input, lines, listener }
    }

    /// Waits until it has said a line that begins so.
    fn wait_for(&mut self, beginning: &str) {
        let begun = Instant::now();
        while !self.lines.lock().unwrap().iter().any(|line| line.starts_with(beginning)) {
            let has_ended = self.child.try_wait().unwrap();
            if has_ended.is_some() {
                // What it said last may still be on its way.
                std::thread::sleep(Duration::from_millis(200));
                let said = self.lines.lock().unwrap().last().cloned();
                panic!("it ended: {has_ended:?}, {said:?}");
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "it does not say {beginning:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills it; answers all that it said.
    fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        self.listener.join().unwrap();
        let lines = std::mem::take(&mut *self.lines.lock().unwrap());
        assert_eq!(status.code(), None, "it ended by itself: {:?}", lines.last());
        lines
    }

    /// Lets it end at `position`; answers all that it said.
    fn finish(mut self, position: u64) -> Vec<String> {
        // One that has failed reads no more.
        let _ = writeln!(self.input.take().unwrap(), "{position}");
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(120), "a follower does not arrive at {position}");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.listener.join().unwrap();
        std::mem::take(&mut *self.lines.lock().unwrap())
    }
}

/// What was acknowledged, and what was asked for, by all writers.
#[derive(Default)]
struct Truth {
    tried: Vec<u64>,
    /// By key: the first position, and each event's revision.
    acknowledged: BTreeMap<u64, (u64, Vec<u64>)>,
    /// By stream: up to where everything was removed, and up to where it was asked for.
    removed: BTreeMap<String, u64>,
    removing: BTreeMap<String, u64>,
    removals: u64,
    compacted: u64,
    emptied: u64,
    kills: u64,
    /// Kills while a compaction was under way.
    met: u64,
}

impl Truth {
    fn hear(&mut self, lines: Vec<String>) {
        let mut is_compacting = false;
        for line in &lines {
            let number = |text: &str| text.parse::<u64>().unwrap();
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["open", _] => {}
                ["try", key] => self.tried.push(number(key)),
                ["ack", key, position, revisions] => {
                    let revisions = revisions.split(',').map(number).collect();
                    self.acknowledged.insert(number(key), (number(position), revisions));
                }
                ["removing", stream, upto] => {
                    let so_far = self.removing.entry(stream.to_owned()).or_default();
                    *so_far = number(upto).max(*so_far);
                }
                ["removed", stream, upto, _] => {
                    self.removals += 1;
                    let so_far = self.removed.entry(stream.to_owned()).or_default();
                    *so_far = number(upto).max(*so_far);
                }
                ["compacting"] => is_compacting = true,
                ["compacted", segments, events] => {
                    is_compacting = false;
                    self.compacted += number(segments);
                    self.emptied += number(events);
                }
                _ => panic!("a writer said {line:?}"),
            }
        }
        self.kills += 1;
        self.met += u64::from(is_compacting);
    }

    /// Whether the store holds what was acknowledged and nothing that was removed. Answers what stands where: true for an
    /// event that can be read, false for one that was removed.
    fn judge(&self, store: &Store) -> BTreeMap<u64, bool> {
        let reader = store.reader();
        let mut standing = BTreeMap::new();
        for key in &self.tried {
            let told = self.acknowledged.get(key);
            for (index, event) in events_of(*key).iter().enumerate() {
                let stream = stream_of(*key, index);
                let removed = self.removed.get(stream).copied().unwrap_or(0);
                let removing = self.removing.get(stream).copied().unwrap_or(0).max(removed);
                let position = match reader.by_id(event.id).unwrap() {
                    Lookup::NotFound => {
                        assert!(told.is_none(), "batch {key} was acknowledged and is gone");
                        continue;
                    }
                    Lookup::Found(found) => {
                        assert_eq!((found.payload(), found.stream()), (&event.payload[..], stream));
                        assert!(found.revision().get() > removed, "{stream} {} was removed", found.revision());
                        let first = found.batch_first().get();
                        assert_eq!(found.position().get(), first + index as u64, "batch {key} is not whole");
                        standing.insert(found.position().get(), true);
                        found.position().get()
                    }
                    Lookup::Removed { at, .. } => {
                        let revision = told.map_or(0, |(_, revisions)| revisions[index]);
                        assert!(revision <= removing, "{stream} {revision} is gone, and only {removing} were removed");
                        standing.insert(at.get(), false);
                        at.get()
                    }
                };
                let wanted = told.map_or(position, |(first, _)| first + index as u64);
                assert_eq!(position, wanted, "batch {key} moved");
            }
        }
        let read = reader.read_all(&Query::all(), Seek::Beginning).unwrap();
        let shown: Vec<u64> = read.map(|event| event.unwrap().position().get()).collect();
        let wanted: Vec<u64> = standing.iter().filter(|(_, is_there)| **is_there).map(|(at, _)| *at).collect();
        assert_eq!(shown, wanted, "a read shows other events than their ids do");
        standing
    }
}

/// Whether a follower that began behind `after` saw everything once: each event that can be read, and of the others either the
/// event, before it was removed, or a gap.
fn judge_follower(name: &str, after: u64, lines: &[String], standing: &BTreeMap<u64, bool>, upto: u64) {
    let mut seen = BTreeSet::new();
    let mut gaps: Vec<(u64, u64)> = Vec::new();
    for line in lines {
        let number = |text: &str| text.parse::<u64>().unwrap();
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["event", at] => assert!(seen.insert(number(at)), "{name}: {at} twice"),
            ["gap", first, last] => gaps.push((number(first), number(last))),
            ["end", _] => {}
            _ => panic!("{name}: {line}"),
        }
    }
    let is_told = |at: u64| gaps.iter().any(|(first, last)| (*first..=*last).contains(&at));
    for at in &seen {
        assert!(standing.contains_key(at), "{name}: {at} was shown, and no batch is there");
        assert!(!is_told(*at), "{name}: {at} was shown, and said to be removed");
    }
    for (at, is_there) in standing.range(after + 1..=upto) {
        match is_there {
            true => assert!(seen.contains(at), "{name}: {at} was passed over"),
            false => assert!(seen.contains(at) || is_told(*at), "{name}: nothing was told of {at}, which was removed"),
        }
    }
}

/// Position of the last thing that a follower told of.
fn last_of(lines: &[String], after: u64) -> u64 {
    let last = lines.iter().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).next_back();
    last.unwrap_or(after)
}

/// Names and lengths of the segments' files, each segment in one form alone.
fn segment_files(path: &Path) -> BTreeMap<String, u64> {
    let mut numbers = BTreeSet::new();
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert!(!name.ends_with(".new"), "{name} is left over");
        if let Some(number) = name.strip_prefix("segment-").filter(|name| name.ends_with(".log")) {
            assert!(numbers.insert(number[..20].to_owned()), "{name} is there beside another form of it");
            files.insert(name, entry.metadata().unwrap().len());
        }
    }
    files
}

#[test]
fn a_compacting_writer_is_killed_beside_followers() {
    let wanted = how_many(20, 200);
    let seed = seed("a_compacting_writer_is_killed_beside_followers");
    let mut dice = Dice::of(seed, 0x434B);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let directory = path.to_str().unwrap();
    let mut truth = Truth::default();
    let follow = |view: &str, after: u64| Telling::start(&["follow", directory, view, &after.to_string()]);
    // Two that live through everything, and one that is killed as well and goes on where it was.
    let lasting = [("durable", follow("durable", 0)), ("written", follow("written", 0))];
    let mut killed: (u64, Option<Telling>) = (0, None);
    let mut parts: Vec<(u64, Vec<String>)> = Vec::new();
    while truth.kills < wanted {
        let mut writing = Telling::start(&["write", directory, &truth.kills.to_string(), &seed.to_string()]);
        if killed.1.is_none() {
            killed.1 = Some(follow("durable", killed.0));
        }
        if dice.chance(1, 5) {
            std::thread::sleep(Duration::from_millis(dice.below(20)));
        } else {
            writing.wait_for("compacting");
            std::thread::sleep(Duration::from_millis(50 + dice.below(300)));
        }
        if dice.chance(1, 3)
            && let (after, Some(following)) = std::mem::take(&mut killed)
        {
            let mut lines = following.kill();
            // Its last words may be half a line.
            lines.retain(|line| line.split(' ').count() > 1);
            killed.0 = last_of(&lines, after);
            parts.push((after, lines));
        }
        truth.hear(writing.kill());
    }
    let options = || Options::new().durability(Durability::Buffered).segment_bytes_max(64 << 10).ring_bytes(64 << 10);
    let store = options().open(&path).unwrap();
    let head = store.sync().unwrap();
    let standing = truth.judge(&store);
    // Whatever compaction does now changes no answer.
    store.compact(&CompactionOptions::new()).unwrap();
    assert_eq!(truth.judge(&store), standing);
    for (view, following) in lasting {
        judge_follower(view, 0, &following.finish(head), &standing, head);
    }
    if let Some(following) = killed.1 {
        parts.push((killed.0, following.finish(head)));
    }
    let mut begun = 0;
    for (after, lines) in &parts {
        assert_eq!(*after, begun);
        let upto = if lines.iter().any(|line| line.starts_with("end")) { head } else { last_of(lines, *after) };
        judge_follower("killed and resumed", *after, lines, &standing, upto);
        begun = upto;
    }
    store.close().unwrap();
    let report = inspect::verify(&path, &mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    let containers = segment_files(&path).keys().filter(|name| name.len() > 40).count();
    let store = options().open(&path).unwrap();
    assert_eq!(truth.judge(&store), standing);
    let Truth { kills, met, compacted, emptied, removals, .. } = truth;
    let gone = standing.values().filter(|is_there| !**is_there).count();
    println!(
        "{kills} kills, {met} while compacting; {head} positions, {gone} events removed by {removals} removals, {emptied} taken \
         out and {compacted} segments compacted by runs that ended, {containers} segments are; three followers, one of them killed {} times",
        parts.len()
    );
    assert!(met * 2 >= kills, "only {met} of {kills} kills met a compaction");
    assert!(
        containers as u64 >= kills / 2 && removals > kills / 2 && gone as u64 > kills,
        "too little was compacted or removed"
    );
}

/// A store on disk with some segments, from which something is removed; always the same.
fn settled(path: &Path, clock: &ManualClock) -> Store {
    let options = Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).background(false);
    let store = options.clock(Arc::new(clock.clone())).open(path).unwrap();
    if store.head() == 0 {
        for number in 0..900_u64 {
            let payload = format!("{number:08} ").repeat(70);
            let event = NewEvent::new("T", &payload).id(EventId::from(u128::from(number) + 1));
            let durability = Durability::Buffered;
            store.append_with(&format!("s-{}", number % 5), Expect::Any, &[event], durability).unwrap();
        }
        store.delete("s-1", Expect::Any).unwrap();
        store.sync().unwrap();
    }
    store
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Compacts, closes, opens again and closes: what is left.
fn compacted(path: &Path, clock: &ManualClock, meanwhile: impl FnOnce()) -> BTreeMap<String, u64> {
    let store = settled(path, clock);
    meanwhile();
    let report = store.compact(&CompactionOptions::new()).unwrap();
    assert!(report.compacted.len() > 3 && report.removed_events > 50, "{report:?}");
    store.close().unwrap();
    settled(path, clock).close().unwrap();
    segment_files(path)
}

/// Who reads, follows, backs up or forks in another process, and is killed in the middle of it while the store is compacted,
/// holds no space in it: what is left is what is left without.
#[test]
fn whoever_dies_half_way_holds_no_space() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(1_700_000_000_000_000_000);
    let original = dir.path().join("original");
    settled(&original, &clock).close().unwrap();
    let alone = dir.path().join("alone");
    copy(&original, &alone);
    let wanted = compacted(&alone, &clock, || {});
    for what in ["read", "follow", "backup", "fork"] {
        let (path, target) = (dir.path().join(what), dir.path().join(format!("{what}-target")));
        copy(&original, &path);
        let names = [path.to_str().unwrap().to_owned(), target.to_str().unwrap().to_owned()];
        let arguments = match what {
            "read" => vec![what, &names[0]],
            "follow" => vec!["watch", &names[0]],
            _ => vec![what, &names[0], &names[1]],
        };
        let mut dying = None;
        let left = compacted(&path, &clock, || {
            let mut child = Telling::start(&arguments);
            child.wait_for(if what == "follow" { "event" } else { "holding" });
            dying = Some(child);
        });
        dying.expect("started above").kill();
        assert_eq!(left, wanted, "beside a {what} that died");
        // And so it is once more, with nobody left.
        settled(&path, &clock).close().unwrap();
        assert_eq!(segment_files(&path), wanted, "after a {what} that died");
        // What it had begun to make holds links or copies of its own, which go with it.
        if target.exists() {
            std::fs::remove_dir_all(&target).unwrap();
        }
        use std::os::unix::fs::MetadataExt;
        for name in wanted.keys() {
            assert_eq!(std::fs::metadata(path.join(name)).unwrap().nlink(), 1, "{name} is held by a {what} that died");
        }
    }
}
