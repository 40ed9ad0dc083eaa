//! Followers: in other processes beside a writer that is killed again and again, and whatever becomes of the store.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use annals::storage::Storage;
use annals::{
    Durability, Error, Expect, Follower, ForkOptions, NewEvent, Options, Query, ReadEvents, ReadMode, Seek, Store, View,
};
use annals_tests::counted::Counted;
use annals_tests::crash::{Hooked, Script, Truth, Verdict, examine, from_environment, how_many, play_on, seed, small};
use annals_tests::ensure;
use annals_tests::model::{Ground, on_each_ground, repetitions};
use annals_tests::sim_disk::{Dice, SimDisk};
use annals_tests::told::told;

fn append(store: &Store, stream: &str, text: &str, durability: Durability) -> u64 {
    let receipt = store.append_with(stream, Expect::Any, &[NewEvent::new("T", text)], durability).unwrap();
    receipt.position().get()
}

/// A follower in a process of its own, and what it said.
struct Following {
    name: String,
    child: Child,
    input: ChildStdin,
    listener: JoinHandle<Told>,
    head: Arc<AtomicU64>,
}

/// What a follower told.
#[derive(Default)]
struct Told {
    /// Position and key of each batch, as it came.
    batches: Vec<(u64, u64)>,
    end: Option<u64>,
    failure: Option<String>,
}

impl Following {
    fn start(directory: &Path, view: &str, manner: &str, seed: u64) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_follow_child")), directory, view, manner, seed)
    }

    /// In a mount namespace of its own, in which the directory is mounted for reading only.
    fn start_on_read_only_mount(directory: &Path, view: &str, manner: &str, seed: u64) -> Self {
        let mut command = on_read_only_mount(directory, "exec \"$@\"");
        command.arg(env!("CARGO_BIN_EXE_follow_child"));
        Self::start_by(command, directory, view, manner, seed)
    }

    fn start_by(mut command: Command, directory: &Path, view: &str, manner: &str, seed: u64) -> Self {
        let mut child = command
            .arg(directory)
            .args([view, manner, &seed.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let head = Arc::new(AtomicU64::new(0));
        let listener = std::thread::spawn({
            let head = head.clone();
            move || {
                let mut told = Told::default();
                for line in lines.map_while(Result::ok) {
                    let words: Vec<&str> = line.split(' ').collect();
                    match words[..] {
                        ["batch", key, position] => {
                            let position = position.parse().unwrap();
                            head.store(position, Ordering::Release);
                            told.batches.push((position, key.parse().unwrap()));
                        }
                        ["end", position] => told.end = Some(position.parse().unwrap()),
                        ["following", _] => {}
                        _ => told.failure = Some(line),
                    }
                }
                told
            }
        });
        let input = child.stdin.take().unwrap();
        Self { name: format!("{view}, {manner}"), child, input, listener, head }
    }

    /// Lets it end at `position`, and answers what it told.
    fn finish(mut self, position: u64) -> Told {
        // One that has failed reads no more.
        let _ = writeln!(self.input, "{position}");
        drop(self.input);
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{}: does not arrive at {position}, it stands behind {}",
                self.name,
                self.head.load(Ordering::Acquire)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        self.listener.join().unwrap()
    }
}

/// A writer in a process of its own.
struct Writing {
    child: Child,
    listener: JoinHandle<Vec<(u64, u64)>>,
}

impl Writing {
    fn start(directory: &Path, round: u64, seed: u64) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_crash_child"))
            .arg(directory)
            .args([round.to_string(), seed.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listener = std::thread::spawn(move || {
            let mut acknowledged = Vec::new();
            for line in lines.map_while(Result::ok) {
                let words: Vec<&str> = line.split(' ').collect();
                if let ["ack", key, position, _] = words[..] {
                    acknowledged.push((position.parse().unwrap(), key.parse().unwrap()));
                }
            }
            acknowledged
        });
        Self { child, listener }
    }

    /// Kills it, and answers what it had acknowledged.
    fn kill(mut self) -> Vec<(u64, u64)> {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), None, "the writer ended by itself");
        self.listener.join().unwrap()
    }
}

/// One writer that is killed and started again, eight followers in both views, some from before there is a store, some that
/// come later. `ANNALS_LONG=1` runs four minutes.
#[test]
fn eight_followers_beside_a_writer_that_is_killed_again_and_again() {
    let seconds = from_environment("ANNALS_SECONDS").unwrap_or(how_many(5, 240));
    let seed = seed("eight_followers_beside_a_writer_that_is_killed_again_and_again");
    let mut dice = Dice::of(seed, 0xF0110);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let manners = ["subscribe", "wait", "poll", "pread"];
    let mut following = Vec::new();
    let start = |number: usize, dice: &mut Dice| {
        let view = if number.is_multiple_of(2) { "durable" } else { "written" };
        Following::start(&path, view, manners[number / 2], dice.next())
    };
    following.extend((0..4).map(|number| start(number, &mut dice)));
    let (begun, mut kills) = (Instant::now(), 0);
    let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
    while begun.elapsed() < Duration::from_secs(seconds) {
        let writing = Writing::start(&path, kills, seed);
        let lifetime = if dice.chance(1, 4) { dice.below(20) } else { 50 + dice.below(400) };
        std::thread::sleep(Duration::from_millis(lifetime));
        acknowledged.extend(writing.kill());
        kills += 1;
        if following.len() < 8 {
            following.push(start(following.len(), &mut dice));
        }
        if dice.chance(1, 3) {
            std::thread::sleep(Duration::from_millis(dice.below(300)));
        }
    }
    while following.len() < 8 {
        following.push(start(following.len(), &mut dice));
    }
    let (head, batches) = finish_all(&path, following, &acknowledged);
    let segments = std::fs::read_dir(&path)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().is_some_and(|name| name.ends_with(".log")));
    println!("{kills} kills, {batches} batches, {head} events, {} segments, eight followers", segments.count());
    assert!(kills >= 5 && head > 1000, "{kills} kills, {head} events");
}

/// Opens the store, lets the followers arrive at its end, and compares all that was told with what it holds: each batch
/// once, in order, and everything that was acknowledged. Answers head and count of batches.
fn finish_all(path: &Path, following: Vec<Following>, acknowledged: &BTreeMap<u64, u64>) -> (u64, usize) {
    let store = Store::open(path).unwrap();
    let head = store.sync().unwrap();
    let mut truth: Vec<(u64, u64)> = Vec::new();
    for event in store.read_all(&Query::all(), Seek::Beginning).unwrap() {
        let event = event.unwrap();
        if event.position() == event.batch_first() {
            truth.push((event.position().get(), u64::from_le_bytes(*event.payload().first_chunk().unwrap())));
        }
    }
    let there: BTreeMap<u64, u64> = truth.iter().copied().collect();
    for (position, key) in acknowledged {
        assert_eq!(there.get(position), Some(key), "what was acknowledged at {position}");
    }
    store.close().unwrap();
    for following in following {
        let name = following.name.clone();
        let told = following.finish(head);
        assert_eq!(told.failure, None, "{name}");
        assert_eq!(told.end, Some(head), "{name}");
        assert!(told.batches == truth, "{name}: other batches, or in another order");
    }
    (head, truth.len())
}

/// A shell that runs `then` where the directory is mounted for reading only, for itself and its children alone.
fn on_read_only_mount(directory: &Path, then: &str) -> Command {
    let mut command = Command::new("unshare");
    let mount = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" || exit 77;";
    command.args(["--mount", "sh", "-c", &format!("{mount} {then}")]).arg(directory);
    command
}

#[test]
fn followers_on_a_read_only_mount_beside_a_writer_that_is_killed() {
    let seed = seed("followers_on_a_read_only_mount_beside_a_writer_that_is_killed");
    let mut dice = Dice::of(seed, 0x0F0110);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    // Mounted is what is there.
    Store::open(&path).unwrap().close().unwrap();
    let is_refused = "if touch \"$0/written\" 2>/dev/null; then exit 78; fi";
    match on_read_only_mount(&path, is_refused).output() {
        Ok(output) if output.status.success() => {}
        other => return println!("SKIPPED: a read-only mount cannot be made here: {other:?}"),
    }
    let manners = [("durable", "subscribe"), ("written", "subscribe"), ("durable", "wait"), ("written", "pread")];
    let mut following: Vec<Following> = Vec::new();
    let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
    for (kills, (view, manner)) in (0..).zip(manners) {
        let newest = Following::start_on_read_only_mount(&path, view, manner, dice.next());
        let writing = Writing::start(&path, kills, seed);
        std::thread::sleep(Duration::from_millis(dice.below(300)));
        // Killed when the newest follower has seen something, however slow the machine is.
        let begun = Instant::now();
        while newest.head.load(Ordering::Acquire) == 0 && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
        following.push(newest);
        acknowledged.extend(writing.kill());
    }
    let (head, batches) = finish_all(&path, following, &acknowledged);
    println!("{batches} batches, {head} events, four followers of a read-only mount");
    assert!(head > 0, "nothing was written");
}

/// Appends, syncs, closings, kills and reopenings at random: whenever a follower is asked it shows exactly what an opening
/// shows that has just looked at everything.
#[test]
fn whatever_happens_a_follower_shows_what_a_new_opening_shows() {
    let seed = annals_tests::model::seed();
    for history in 0..repetitions("ANNALS_HISTORIES", 16, 800) {
        let mut dice = Dice::new(seed.wrapping_add(history));
        let ground = if history % 2 == 0 { Ground::memory() } else { Ground::disk() };
        // Everybody gets the lock, so that a store can be forgotten: a killed process.
        let storage: Arc<dyn Storage> = Arc::new(Counted::new(ground.storage()));
        let options = || Options::new().background(false).durability(Durability::Buffered);
        let ring_bytes = [64 << 10, 128 << 10];
        let writing = |dice: &mut Dice| {
            let ring = ring_bytes[dice.index(2)];
            options().segment_bytes_max(128 << 10).ring_bytes(ring).open_storage(storage.clone()).unwrap()
        };
        let mode = if dice.chance(1, 2) { ReadMode::Mapped } else { ReadMode::Pread };
        let following = |view| options().read_mode(mode).view(view).follow_storage(storage.clone()).unwrap();
        let mut store = writing(&mut dice);
        let followers = [following(View::Durable), following(View::Written)];
        let mut kept = Vec::new();
        for step in 0..60 {
            match dice.below(20) {
                0 => {
                    store.close().unwrap();
                    store = writing(&mut dice);
                }
                1 => {
                    std::mem::forget(store);
                    if dice.chance(1, 2) {
                        for follower in &followers {
                            let _ = follower.refresh().unwrap();
                        }
                    }
                    store = writing(&mut dice);
                }
                2 | 3 => drop(store.sync().unwrap()),
                _ => {
                    for _ in 0..=dice.below(3) {
                        let len = if dice.chance(1, 8) { dice.below(50_000) } else { dice.below(3_000) };
                        let durability = if dice.chance(1, 6) { Durability::Durable } else { Durability::Buffered };
                        append(&store, &format!("s-{}", dice.below(3)), &"x".repeat(len as usize), durability);
                    }
                }
            }
            if dice.chance(1, 3) {
                continue;
            }
            let fresh = options().read_mode(mode).open_read_only_storage(storage.clone()).unwrap();
            let context = format!("seed {seed}, history {history}, step {step}");
            for follower in &followers {
                // By the clock it would be found as well: a ring of another length, made by a clean reopening.
                follower.wait_beyond(u64::MAX, Duration::ZERO).unwrap();
                let view = follower.view();
                assert_eq!(follower.head(), store.reader_in(view).head(), "{context}, {view:?}");
                assert_eq!(told(follower), told(&fresh.reader_in(view)), "{context}, {view:?}");
            }
            if dice.chance(1, 8) {
                let reader = followers[1].reader();
                let read = reader.read_all(&Query::all(), Seek::Beginning).unwrap();
                kept.push((told(&reader).1, read));
            }
        }
        drop(store);
        for (before, read) in kept {
            assert_eq!(read.count(), before.len(), "a read that was opened shows for ever what it showed");
        }
    }
}

/// The same questions, answered alike by a store, its reader, one opened for reading only, and a follower.
#[test]
fn whoever_shows_a_log_answers_alike() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new().background(false).segment_bytes_max(64 << 10));
        for n in 0..300 {
            append(&store, &format!("s-{}", n % 3), &"x".repeat(n), Durability::Buffered);
        }
        store.sync().unwrap();
        let read_only = ground.open_read_only(Options::new());
        let follower = Options::new().follow_storage(ground.storage()).unwrap();
        let expected = told(&store);
        assert_eq!((expected.0, expected.1.len()), (300, 300));
        assert_eq!(told(&store.reader()), expected);
        assert_eq!(told(&read_only), expected);
        assert_eq!(told(&follower), expected);
        assert_eq!(told(&follower.reader()), expected);
        fn asked(events: &impl ReadEvents) -> String {
            let first = events.at(annals::Position::FIRST).unwrap().unwrap();
            let last = events.last(&Query::stream("s-1")).unwrap().unwrap();
            let count = events.count(&Query::prefix("s-")).unwrap();
            let back: Vec<u64> = events
                .read_all_back(&Query::stream("s-2"), Seek::End)
                .unwrap()
                .map(|event| event.unwrap().position().get())
                .collect();
            let state = events.stream_state("s-0").unwrap();
            let at = events.position_at(first.recorded_at()).unwrap();
            let durable = events.reader_in(View::Durable).head();
            format!("{first:?} {last:?} {count} {back:?} {state:?} {at:?} {durable}")
        }
        let expected = asked(&store);
        assert_eq!(asked(&store.reader()), expected);
        assert_eq!(asked(&read_only), expected);
        assert_eq!(asked(&follower), expected);
    });
}

#[test]
fn a_follower_shows_what_is_durable_unless_asked_for_what_is_written() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new().background(false).durability(Durability::Buffered));
        let durable = Options::new().follow_storage(ground.storage()).unwrap();
        let written = Options::new().view(View::Written).follow_storage(ground.storage()).unwrap();
        append(&store, "s", "1", Durability::Buffered);
        assert_eq!((durable.head(), written.head()), (0, 1));
        assert_eq!(durable.reader_in(View::Written).head(), 0, "a follower of the durable view has no other");
        assert_eq!(written.reader_in(View::Durable).head(), 0);
        append(&store, "s", "2", Durability::Durable);
        assert_eq!((durable.head(), written.head()), (2, 2));
        assert_eq!(written.reader_in(View::Durable).head(), 2);
    });
}

#[test]
fn whoever_begins_to_follow_while_a_store_is_made_sees_its_first_event() {
    for disk in [SimDisk::new(), SimDisk::new().without_shared_maps()] {
        let options = Options::new().background(false).durability(Durability::Buffered).view(View::Written);
        let followers = Arc::new(std::sync::Mutex::new(Vec::new()));
        let hooked = {
            let (watched, followers, options) = (disk.clone(), followers.clone(), options.clone());
            // Before there is a store there is nothing to follow.
            Hooked::new(&disk, move || {
                followers.lock().unwrap().extend(options.clone().follow_storage(Arc::new(watched.clone())))
            })
        };
        let store = options.clone().open_storage(Arc::new(hooked)).unwrap();
        let nothing_yet = options.clone().follow_storage(Arc::new(disk.clone())).unwrap();
        let mut followers = std::mem::take(&mut *followers.lock().unwrap());
        assert!(followers.len() > 5, "{} began meanwhile", followers.len());
        followers.push(nothing_yet);
        for n in 1..=2 {
            append(&store, "s", "x", Durability::Buffered);
            let heads: Vec<u64> = followers.iter().map(|follower| follower.refresh().unwrap()).collect();
            assert_eq!(heads, vec![n; followers.len()]);
        }
    }
}

/// What nobody syncs and nobody waits for stands in the ring alone.
fn unsynced() -> Options {
    Options::new().background(false).durability(Durability::Buffered).view(View::Written)
}

#[test]
fn who_follows_a_fork_before_it_is_opened_sees_what_its_writer_has_in_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    let (path, fork) = (dir.path().join("store"), dir.path().join("fork"));
    let store = Store::open(&path).unwrap();
    append(&store, "s", "1", Durability::Durable);
    store.fork(&fork, &ForkOptions::new()).unwrap();
    let follower = unsynced().follow(&fork).unwrap();
    assert_eq!(follower.head(), 1);
    let store = unsynced().open(&fork).unwrap();
    for n in 2..5 {
        append(&store, "s", "x", Durability::Buffered);
        assert_eq!(follower.refresh().unwrap(), n);
    }
}

#[test]
fn a_ring_of_another_length_is_gone_on_with() {
    for hooked in [true, false] {
        let disk = SimDisk::new();
        let sized = |bytes| unsynced().ring_bytes(bytes);
        let open = |bytes, storage: Arc<dyn Storage>| sized(bytes).open_storage(storage).unwrap();
        let store = open(64 << 10, Arc::new(disk.clone()));
        append(&store, "s", "1", Durability::Buffered);
        let follower = unsynced().follow_storage(Arc::new(disk.clone())).unwrap();
        assert_eq!(follower.head(), 1);
        store.close().unwrap();
        // Somebody looks after each step of the opening, or nobody does and the ring was deleted before.
        let store = if hooked {
            let looks = follower.clone();
            open(128 << 10, Arc::new(Hooked::new(&disk, move || drop(looks.refresh()))))
        } else {
            disk.remove("RING").unwrap();
            open(128 << 10, Arc::new(disk.clone()))
        };
        assert!(store.recovery_report().clean);
        append(&store, "s", "2", Durability::Buffered);
        assert_eq!(follower.wait_beyond(1, Duration::from_secs(60)).unwrap(), 2, "hooked: {hooked}");
        append(&store, "s", "3", Durability::Buffered);
        assert_eq!(follower.refresh().unwrap(), 3, "hooked: {hooked}");
    }
}

#[test]
fn who_waits_for_a_position_far_ahead_goes_on_while_there_is_more() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let follower = Options::new().follow_storage(ground.storage()).unwrap();
        let text = "x".repeat(100 << 10);
        let last = (0..40).fold(0, |_, _| append(&store, "s", &text, Durability::Buffered));
        store.sync().unwrap();
        assert_eq!(follower.wait_beyond(last - 1, Duration::ZERO).unwrap(), last);
    });
}

#[test]
fn a_sleeping_follower_is_woken_by_the_writer() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let follower = Options::new().follow_storage(ground.storage()).unwrap();
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let follower = follower.clone();
                std::thread::spawn(move || {
                    let mut seen = 0;
                    while seen < 200 {
                        let head = follower.wait_beyond(seen, Duration::from_secs(60)).unwrap();
                        assert!(head > seen);
                        let read = follower.read_all(&Query::all(), Seek::After(seen)).unwrap();
                        seen = read.map(|event| event.unwrap().position().get()).last().unwrap();
                    }
                })
            })
            .collect();
        for n in 1..=200 {
            append(&store, "s", "x", Durability::Durable);
            if n % 20 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        waiting.into_iter().for_each(|waiting| waiting.join().unwrap());
        assert_eq!(follower.wait_beyond(200, Duration::from_millis(1)).unwrap(), 200, "nothing came");
    });
}

#[test]
fn before_there_is_a_store_a_follower_waits_or_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    assert!(matches!(Follower::open(&path), Err(Error::NotAStore { .. })));
    let brief = Options::new().wait_for_store(Duration::from_millis(20));
    assert!(matches!(brief.follow(&path), Err(Error::NotAStore { .. })));
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(Follower::open(&path), Err(Error::NotAStore { .. })), "an empty directory is none yet");
    let waiting = std::thread::spawn({
        let path = path.clone();
        move || {
            let follower = Options::new().wait_for_store(Duration::from_secs(60)).follow(path).unwrap();
            follower.wait_beyond(0, Duration::from_secs(60)).unwrap()
        }
    });
    std::thread::sleep(Duration::from_millis(30));
    let store = Store::open(&path).unwrap();
    append(&store, "s", "1", Durability::Durable);
    assert_eq!(waiting.join().unwrap(), 1);
}

#[test]
fn a_store_that_was_deleted_and_made_anew_is_never_taken_for_the_old_one() {
    let waits = |follower: &Follower| follower.wait_beyond(1, Duration::from_millis(100));
    let polls = |follower: &Follower| {
        std::thread::sleep(Duration::from_millis(5));
        follower.refresh()
    };
    let asks: [(&str, Ask<'_>); 2] = [("waits", &waits), ("polls", &polls)];
    let ways = [("the directory with it", false), ("its files alone", true)];
    for ((how, keeps_directory), (who, ask)) in ways.into_iter().flat_map(|way| asks.map(|ask| (way, ask))) {
        let how = format!("{how}, who {who}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = Store::open(&path).unwrap();
        append(&store, "s", "old", Durability::Durable);
        let follower = Follower::open(&path).unwrap();
        let kept: Vec<_> = follower.read_all(&Query::all(), Seek::Beginning).unwrap().collect();
        store.close().unwrap();
        if keeps_directory {
            std::fs::read_dir(&path).unwrap().for_each(|entry| std::fs::remove_file(entry.unwrap().path()).unwrap());
        } else {
            std::fs::remove_dir_all(&path).unwrap();
        }
        let gone = wait_for_error(&follower, 1, ask);
        assert!(matches!(gone, Error::NotAStore { .. }), "{how}: {gone}");
        let store = Store::open(&path).unwrap();
        append(&store, "s", "new", Durability::Durable);
        append(&store, "s", "newer", Durability::Durable);
        let other = wait_for_error(&follower, 1, ask);
        assert!(matches!(other, Error::Diverged { position: 1, common: 0 }), "{how}: {other}");
        assert!(
            matches!(follower.refresh(), Err(Error::Diverged { position: 1, common: 0 })),
            "{how}: it is at its end"
        );
        let shown: Vec<_> = follower.read_all(&Query::all(), Seek::Beginning).unwrap().collect();
        assert_eq!(shown.len(), 1, "{how}: what it showed is all it shows");
        assert_eq!(kept[0].as_ref().unwrap().payload(), shown[0].as_ref().unwrap().payload());
        assert_eq!(Follower::open(&path).unwrap().head(), 2, "{how}");
    }
}

/// How a follower is asked for something new.
type Ask<'a> = &'a dyn Fn(&Follower) -> annals::Result<u64>;

/// Asks for something beyond `position` until that is refused.
fn wait_for_error(follower: &Follower, position: u64, ask: Ask<'_>) -> Error {
    let begun = Instant::now();
    loop {
        match ask(follower) {
            Ok(head) => assert_eq!(head, position, "what came is not of this store"),
            // Between two files of one that is being made or removed.
            Err(Error::Io { .. } | Error::Corrupt(_)) => {}
            Err(error) => return error,
        }
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn a_copy_that_holds_less_than_was_shown_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let store = Store::open(&path).unwrap();
    append(&store, "s", "1", Durability::Durable);
    store.close().unwrap();
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let store = Store::open(&path).unwrap();
    append(&store, "s", "2", Durability::Durable);
    let follower = Follower::open(&path).unwrap();
    assert_eq!(follower.head(), 2);
    store.close().unwrap();
    std::fs::rename(&path, dir.path().join("away")).unwrap();
    std::fs::rename(&copy, &path).unwrap();
    let waits = |follower: &Follower| follower.wait_beyond(2, Duration::from_millis(100));
    assert!(matches!(wait_for_error(&follower, 2, &waits), Error::Diverged { position: 2, common: 1 }));
}

#[test]
fn whether_a_writer_lives_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    append(&store, "s", "1", Durability::Durable);
    let follower = Follower::open(&path).unwrap();
    if follower.is_writer_alive().is_none() {
        println!("SKIPPED: no control page on this file system");
        return;
    }
    assert_eq!(follower.is_writer_alive(), Some(true));
    let reader = store.reader();
    store.close().unwrap();
    assert_eq!(follower.is_writer_alive(), Some(false), "closed, although a reader is still held: {}", reader.head());
    let writing = Writing::start(&path, 1, 1);
    let begun = Instant::now();
    while follower.head() < 10 {
        assert!(begun.elapsed() < Duration::from_secs(60));
        let _ = follower.wait_beyond(9, Duration::from_millis(100)).unwrap();
    }
    assert_eq!(follower.is_writer_alive(), Some(true));
    writing.kill();
    assert_eq!(follower.is_writer_alive(), Some(false), "killed");
    assert!(Follower::open(&path).unwrap().head() >= 10, "it can be followed without a writer");
}

/// A follower needs no right but to read. As root the rights of files stop nobody: then a process without that is asked.
#[test]
fn a_directory_that_cannot_be_written_is_followed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    append(&store, "s", "1", Durability::Durable);
    let set = |mode: u32, of_directory: u32| {
        for entry in std::fs::read_dir(&path).unwrap() {
            std::fs::set_permissions(entry.unwrap().path(), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(of_directory)).unwrap();
    };
    set(0o444, 0o555);
    let probe = std::fs::File::create(path.join("probe"));
    if probe.is_ok() {
        std::fs::remove_file(path.join("probe")).unwrap();
        println!("SKIPPED in part: this process may write everywhere, so the rights stop nobody here");
    }
    let follower = Follower::open(&path).unwrap();
    assert_eq!(follower.head(), 1);
    append(&store, "s", "2", Durability::Durable);
    assert_eq!(follower.wait_beyond(1, Duration::from_secs(60)).unwrap(), 2);
    assert_ne!(follower.is_writer_alive(), Some(false));
    set(0o644, 0o755);
    store.close().unwrap();
}

/// The page may be missing, unusable, or full of lies: the follower shows the same, only later.
#[test]
fn nothing_that_stands_in_the_control_page_changes_what_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut store = Store::open(&path).unwrap();
    append(&store, "s", "1", Durability::Durable);
    let page = path.join("CONTROL");
    if !page.exists() {
        println!("SKIPPED: no control page on this file system");
        return;
    }
    let follower = Follower::open(&path).unwrap();
    let mut head = 1;
    let sound = std::fs::read(&page).unwrap();
    let mut forged = sound.clone();
    forged[256..264].copy_from_slice(&u64::MAX.to_le_bytes());
    for (what, content) in [
        ("zeros", Some(vec![0; 4096])),
        ("nonsense", Some(vec![0xAB; 4096])),
        ("a head that is none", Some(forged)),
        ("a page of another length", Some(vec![1; 100])),
        ("nothing", None),
    ] {
        // Another file, as nobody cuts one that is mapped.
        std::fs::remove_file(&page).unwrap();
        if let Some(content) = content {
            std::fs::write(&page, content).unwrap();
        }
        let late = Follower::open(&path).unwrap();
        for _ in 0..3 {
            head = append(&store, "s", what, Durability::Durable);
            for follower in [&follower, &late] {
                assert_eq!(follower.wait_beyond(head - 1, Duration::from_secs(60)).unwrap(), head, "{what}");
            }
        }
        store.close().unwrap();
        store = Store::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&page).unwrap().len(), 4096, "{what}: made anew");
        head = append(&store, "s", what, Durability::Durable);
        assert_eq!(follower.wait_beyond(head - 1, Duration::from_secs(60)).unwrap(), head, "{what}, reopened");
    }
    assert_eq!(follower.count(&Query::all()).unwrap(), head);
}

/// One chain of crashes on a simulated disk, with a follower that looks after each operation of the disk.
struct Shown {
    states: u64,
    looks: u64,
    shown: u64,
}

fn follow_into_power_cuts(seed: u64) -> Verdict<Shown> {
    let mut dice = Dice::of(seed, 0xF011);
    let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
    let options = small(durability, ReadMode::Mapped);
    let mut counts = Shown { states: 0, looks: 0, shown: 0 };
    let mut state = (SimDisk::new(), Truth::new(durability));
    for round in 0..4 {
        let script = Script::random(&mut dice, 24);
        let disk = state.0.after_kill();
        let mut truth = state.1.clone();
        let steps = disk.steps();
        disk.cut_at(steps + 20 + dice.below(1500));
        let shown = Arc::new(AtomicU64::new(0));
        let looks = Arc::new(AtomicU64::new(0));
        let follower = std::sync::Mutex::new(None::<Follower>);
        let hooked = {
            let (watched, shown, looks, options) = (disk.clone(), shown.clone(), looks.clone(), options.clone());
            Hooked::new(&disk, move || {
                let mut follower = follower.lock().unwrap();
                let head = match &*follower {
                    Some(follower) => follower.refresh(),
                    None => options.clone().follow_storage(Arc::new(watched.clone())).map(|opened| {
                        let head = opened.head();
                        *follower = Some(opened);
                        head
                    }),
                };
                // What is shown after the power went nobody sees.
                if let Ok(head) = head
                    && watched.cut().is_none()
                {
                    shown.fetch_max(head, Ordering::Relaxed);
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        play_on(&Arc::new(hooked), &disk, &mut truth, &script, &options)
            .map_err(|text| format!("round {round}: {text}"))?;
        let shown = shown.load(Ordering::Relaxed);
        counts.looks += looks.load(Ordering::Relaxed);
        counts.shown = counts.shown.max(shown);
        truth.shown_durable(shown).map_err(|text| format!("round {round}: a follower shows too much: {text}"))?;
        truth.power_was_cut = true;
        let mut states = Vec::new();
        for _ in 0..3 {
            let loss = dice.next();
            let lost = disk.after_power_loss(loss);
            let context = |text| format!("round {round}, {:?}, loss {loss}: {text}", disk.cut());
            // Without a writer a follower shows no less than was promised to last, and nothing that recovery drops.
            let after = options.clone().follow_storage(Arc::new(lost.after_kill()));
            let head = match &after {
                Ok(follower) => follower.head(),
                Err(Error::NotAStore { .. }) if !truth.created => 0,
                Err(error) => return Err(context(format!("following after a power cut: {error}"))),
            };
            examine(&lost.after_kill(), truth.clone(), &options, &mut dice).map_err(context)?;
            let recovered = lost.after_kill();
            if let Ok(store) = options.clone().open_storage(Arc::new(recovered)) {
                ensure!(
                    store.head() >= head,
                    "{}",
                    context(format!("a follower showed {head}, {} is kept", store.head()))
                );
            }
            counts.states += 1;
            states.push((lost, truth.clone()));
        }
        state = states.swap_remove(dice.index(3));
    }
    Ok(counts)
}

#[test]
fn nothing_that_a_follower_shows_as_durable_vanishes_in_a_power_cut() {
    let wanted = how_many(1_500, 20_000);
    let seed = seed("nothing_that_a_follower_shows_as_durable_vanishes_in_a_power_cut");
    let mut all = Shown { states: 0, looks: 0, shown: 0 };
    let mut chain = 0;
    while all.states < wanted {
        let seed = seed.wrapping_add(chain);
        match follow_into_power_cuts(seed) {
            Ok(counts) => {
                all.states += counts.states;
                all.looks += counts.looks;
                all.shown = all.shown.max(counts.shown);
            }
            Err(text) => panic!("ANNALS_SEED={seed}: {text}"),
        }
        chain += 1;
    }
    println!("{} states, {} looks of followers, the longest log {} events", all.states, all.looks, all.shown);
    assert!(all.looks > wanted && all.shown > 10);
}

/// System calls of a follower that reads up to `until`, as `strace` counts them.
fn calls(directory: &Path, view: &str, until: u64) -> Option<u64> {
    let counts = directory.join("../calls");
    let mut child = Command::new("strace")
        .args(["-c", "-f", "-o"])
        .arg(&counts)
        .arg(env!("CARGO_BIN_EXE_follow_child"))
        .arg(directory)
        .args([view, "count", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    writeln!(child.stdin.take().unwrap(), "{until}").unwrap();
    if !child.wait().unwrap().success() {
        return None;
    }
    // "100.00    0.001234           3       400        12 total"
    let table = std::fs::read_to_string(&counts).ok()?;
    let total = table.lines().find(|line| line.ends_with("total"))?;
    print!("{table}");
    total.split_whitespace().nth(3)?.parse().ok()
}

/// Fewer than one system call in 10,000 events that were there already; a follower that reads none is subtracted. In the
/// short form, with fewer events for each segment that is opened, one in 1,000.
#[test]
fn a_follower_that_is_behind_makes_next_to_no_system_calls() {
    let (events, share) = (how_many(100_000, 1_000_000), how_many(1_000, 10_000));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Options::new().durability(Durability::Buffered).open(&path).unwrap();
    let payload = [7; 128];
    let batch = [(); 100].map(|()| NewEvent::new("T", &payload));
    for _ in 0..events / 100 {
        store.append("s", Expect::Any, &batch).unwrap();
    }
    store.sync().unwrap();
    for view in ["durable", "written"] {
        let (Some(none), Some(all)) = (calls(&path, view, 0), calls(&path, view, events)) else {
            println!("SKIPPED: strace is not there, or may not be used");
            return;
        };
        println!("{view}: {} system calls for {events} events", all.saturating_sub(none));
        assert!(all.saturating_sub(none) < events / share, "{view}: {all} calls, {none} without an event");
    }
    store.close().unwrap();
}
