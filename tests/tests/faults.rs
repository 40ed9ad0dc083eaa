//! Failing operations (R7, R8, R9, R19): the n-th one fails, for every n of a script, once and for ever. Nothing is
//! acknowledged after a failed write or sync, the store says so, and reopening shows all that was acknowledged: in the
//! same boot, where the page cache shows what a failed sync gave up, and after a power cut.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use annals::storage::Storage;
use annals::{
    Batch, Durability, Error, Event, NewEvent, Options, Position, Query, Read, ReadMode, Reader, Seek, Store, View,
};
use annals_tests::crash::{
    Hooked, Lot, Script, Step, Trace, Truth, Verdict, examine, how_many, judge_reader, open, play, play_on, seed, small,
};
use annals_tests::ensure;
use annals_tests::sim_disk::{Call, Dice, FaultKind, Repeat, SimDisk};

const KINDS: [FaultKind; 6] = [
    FaultKind::Eio,
    FaultKind::Enospc,
    FaultKind::ShortWrite,
    FaultKind::SyncFail,
    FaultKind::ReadEio,
    FaultKind::TornWriteHalf,
];

/// Whether this is a way for that call to fail.
fn can_fail(call: Call, kind: FaultKind) -> bool {
    match kind {
        // A failing sync is `SyncFail`.
        FaultKind::Eio => !matches!(call, Call::Sync | Call::SyncDir),
        FaultKind::Enospc => matches!(call, Call::Create | Call::Write),
        FaultKind::ShortWrite | FaultKind::TornWriteHalf => call == Call::Write,
        FaultKind::SyncFail => matches!(call, Call::Sync | Call::SyncDir),
        // `Eio` covers it once; for ever it fails no write.
        FaultKind::ReadEio => matches!(call, Call::List | Call::Open | Call::Read | Call::Map),
    }
}

/// What came of the faults of a run, by how it went on.
#[derive(Default)]
struct Counts(BTreeMap<String, u64>);

impl Counts {
    fn add(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    fn print(&self, of: &str) {
        println!("{of}");
        for (what, count) in &self.0 {
            println!("  {what:<40} {count:>7}");
        }
    }
}

/// Plays a script with a fault, and judges what is left.
struct Faulty<'a> {
    options: &'a Options,
    dice: Dice,
    counts: Counts,
}

impl Faulty<'_> {
    /// Every operation of the script fails in every way it can, once and for ever.
    fn script(&mut self, disk: &SimDisk, truth: &Truth, script: &Script) -> Verdict {
        let uncut = disk.after_kill();
        let trace = Trace::default();
        play_on(&Arc::new(trace.of(&uncut)), &uncut, &mut truth.clone(), script, self.options)?;
        for (step, _, call) in trace.steps() {
            for kind in KINDS.into_iter().filter(|kind| can_fail(call, *kind)) {
                for repeat in [Repeat::Once, Repeat::Forever] {
                    self.fault(disk, truth, script, step, kind, repeat)
                        .map_err(|text| format!("operation {step}, {kind:?} {repeat:?}: {text}"))?;
                }
            }
        }
        Ok(())
    }

    fn fault(
        &mut self,
        disk: &SimDisk,
        truth: &Truth,
        script: &Script,
        step: u64,
        kind: FaultKind,
        repeat: Repeat,
    ) -> Verdict {
        let disk = disk.after_kill();
        let mut truth = truth.clone();
        disk.fail_at(step, kind, repeat);
        let ended = play(&disk, &mut truth, script, self.options)?;
        if disk.faults_hit() == 0 {
            return Ok(());
        }
        self.counts.add(format!("{kind:?} {repeat:?}: {ended:?}"));
        self.aftermath(&disk, &truth)
    }

    /// Reopened in the same boot; after a power cut; and after a power cut that follows a reopening.
    fn aftermath(&mut self, disk: &SimDisk, truth: &Truth) -> Verdict {
        let killed = disk.after_kill();
        self.examine(&killed.after_kill(), truth).map_err(|text| format!("same boot: {text}"))?;
        let mut cut = truth.clone();
        cut.power_was_cut = true;
        for _ in 0..2 {
            let loss = self.dice.next();
            self.examine(&disk.after_power_loss(loss), &cut).map_err(|text| format!("power cut {loss}: {text}"))?;
        }
        let mut shown = truth.clone();
        let store = open(&killed, &mut shown, self.options)?;
        shown.power_was_cut = true;
        for survives in [false, true] {
            let lost = killed.after_power_loss_with(|_| survives);
            self.examine(&lost, &shown).map_err(|text| format!("reopened, then a power cut: {text}"))?;
        }
        drop(store);
        Ok(())
    }

    fn examine(&mut self, disk: &SimDisk, truth: &Truth) -> Verdict {
        examine(disk, truth.clone(), self.options, &mut self.dice)
    }
}

/// Scripts that reach every call the engine makes.
fn scripts() -> Vec<(&'static str, Vec<Step>)> {
    let dice = &mut Dice::new(3);
    let mut lot = |count: usize, longest: usize| Arc::new(Lot::of(dice, count, longest, count > 1));
    let (durable, buffered) = (Durability::Durable, Durability::Buffered);
    vec![
        (
            "durable",
            vec![
                Step::Append(lot(1, 300), durable),
                Step::Append(lot(3, 30_000), durable),
                Step::Retry(0),
                Step::Append(lot(2, 30_000), durable),
                Step::Append(lot(1, 300), durable),
                Step::Refused(0),
            ],
        ),
        (
            "buffered",
            vec![
                Step::Append(lot(2, 3_000), buffered),
                Step::Append(lot(3, 40_000), buffered),
                Step::Append(lot(2, 30_000), buffered),
                Step::Retry(64),
                Step::Sync,
                Step::Append(lot(1, 300), buffered),
            ],
        ),
        (
            "tickets, reopened",
            vec![
                Step::Submit(lot(1, 300), durable),
                Step::Submit(lot(4, 20_000), buffered),
                Step::Submit(lot(3, 20_000), durable),
                Step::WaitAll,
                Step::Reopen,
                Step::Append(lot(1, 300), durable),
            ],
        ),
    ]
}

#[test]
fn every_operation_fails_once_and_for_ever() {
    for durability in [Durability::Durable, Durability::Buffered] {
        for (mode, disk) in
            [(ReadMode::Mapped, SimDisk::new()), (ReadMode::Pread, SimDisk::new().without_shared_maps())]
        {
            let options = small(durability, mode);
            let mut faulty = Faulty { options: &options, dice: Dice::new(11), counts: Counts::default() };
            let mut truth = Truth::new(durability);
            truth.reads_memory = mode == ReadMode::Mapped;
            for (name, steps) in scripts() {
                let script = Script { steps };
                faulty
                    .script(&disk, &truth, &script)
                    .unwrap_or_else(|text| panic!("{name}, {durability:?}, {mode:?}: {text}"));
            }
            faulty.counts.print(&format!("{durability:?}, {mode:?}"));
        }
    }
}

/// Recovery fails at every operation; the next opening finds everything.
#[test]
fn recovery_fails_at_every_operation() {
    for durability in [Durability::Durable, Durability::Buffered] {
        let options = small(durability, ReadMode::Mapped);
        let mut faulty = Faulty { options: &options, dice: Dice::new(12), counts: Counts::default() };
        for (name, steps) in scripts() {
            let (disk, mut truth) = (SimDisk::new(), Truth::new(durability));
            let trace = Trace::default();
            let script = Script { steps };
            let whole = disk.after_kill();
            play_on(&Arc::new(trace.of(&whole)), &whole, &mut truth.clone(), &script, &options).unwrap();
            disk.cut_at(trace.steps().len() as u64 * 4 / 5);
            play(&disk, &mut truth, &script, &options).unwrap();
            let again =
                Script { steps: vec![Step::Append(Arc::new(Lot::of(&mut Dice::new(5), 1, 90, false)), durability)] };
            faulty
                .script(&disk.after_kill(), &truth, &again)
                .unwrap_or_else(|text| panic!("{name}, {durability:?}: {text}"));
        }
        faulty.counts.print(&format!("{durability:?}"));
    }
}

/// Random scripts with one fault at a random operation, then with a second one while recovering.
#[test]
fn random_faults() {
    let wanted = how_many(1_000, 30_000);
    let seed = seed("random_faults");
    let mut counts = Counts::default();
    for round in 0..wanted {
        let seed = seed.wrapping_add(round);
        let mut dice = Dice::of(seed, 0x4641);
        let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
        let options = small(durability, ReadMode::Mapped);
        let mut faulty = Faulty { options: &options, dice, counts: Counts::default() };
        random_fault(&mut faulty, durability).unwrap_or_else(|text| panic!("ANNALS_SEED={seed}: {text}"));
        for (what, count) in faulty.counts.0 {
            *counts.0.entry(what).or_default() += count;
        }
    }
    counts.print("random faults");
}

fn random_fault(faulty: &mut Faulty<'_>, durability: Durability) -> Verdict {
    let mut state = (SimDisk::new(), Truth::new(durability));
    for _ in 0..2 {
        let script = Script::random(&mut faulty.dice, 16);
        let uncut = state.0.after_kill();
        play(&uncut, &mut state.1.clone(), &script, faulty.options)?;
        let step = faulty.dice.below(uncut.steps());
        let kind = KINDS[faulty.dice.index(KINDS.len())];
        let repeat = if faulty.dice.chance(1, 2) { Repeat::Once } else { Repeat::Forever };
        let disk = state.0.after_kill();
        disk.fail_at(step, kind, repeat);
        let mut truth = state.1.clone();
        let ended = play(&disk, &mut truth, &script, faulty.options)
            .and_then(|ended| faulty.aftermath(&disk, &truth).map(|()| ended))
            .map_err(|text| format!("operation {step}, {kind:?} {repeat:?}: {text}\n{script:?}"))?;
        faulty.counts.add(format!("{kind:?} {repeat:?}: {ended:?}"));
        state = (disk.after_kill(), truth);
    }
    Ok(())
}

/// While a batch is being placed, with writes under way, readers see whole batches only.
#[test]
fn readers_never_see_what_is_not_placed() {
    let disk = SimDisk::new();
    let reader: Arc<Mutex<Option<Reader>>> = Arc::default();
    let looks = Arc::new(AtomicU64::new(0));
    let (watching, counted) = (Arc::clone(&reader), Arc::clone(&looks));
    let hooked = Hooked::new(&disk, move || {
        let Some(reader) = watching.lock().unwrap().clone() else { return };
        let Some(head) = Position::new(reader.head()) else { return };
        let newest = reader.at(head).expect("the newest event can be read");
        assert_eq!(newest.map(|event| event.position()), Some(head), "the newest event is there");
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let storage: Arc<dyn Storage> = Arc::new(hooked);
    let store = small(Durability::Buffered, ReadMode::Mapped).open_storage(storage).unwrap();
    *reader.lock().unwrap() = Some(store.reader_in(View::Written));
    let dice = &mut Dice::new(9);
    for round in 0..200 {
        let longest = [200, 9_000, 40_000][round % 3];
        let durability = if round % 5 == 0 { Durability::Durable } else { Durability::Buffered };
        Lot::of(dice, 3, longest, true).append(&store, durability).unwrap();
    }
    assert!(looks.load(Ordering::Relaxed) > 500, "only {looks:?} looks");
}

/// A store of a few segments on a disk of its own, read by ordinary calls.
fn store_of_some_segments() -> (SimDisk, Store) {
    let disk = SimDisk::new();
    let store = small(Durability::Durable, ReadMode::Pread).open_storage(Arc::new(disk.clone())).unwrap();
    let payload = vec![7; 6_000];
    for number in 0..40u32 {
        let (tags, metadata) = ([["even"], ["odd"]][number as usize % 2], number.to_le_bytes());
        let stream = format!("stream-{}", number % 3);
        let batch = Batch::new().event(&stream, NewEvent::new("T", &payload).tags(&tags).metadata(&metadata));
        store.commit(&batch).unwrap();
    }
    (disk, store)
}

type Reading = fn(&Reader) -> annals::Result<Read>;

/// Every read of an iteration fails once: the events before it are right, then comes the error, then nothing.
#[test]
fn iterators_end_after_an_error() {
    let (disk, store) = store_of_some_segments();
    let reader = store.reader();
    let readings: [(&str, Reading); 6] = [
        ("all", |reader| reader.read_all(&Query::all(), Seek::Beginning)),
        ("all, back", |reader| reader.read_all_back(&Query::all(), Seek::End)),
        ("by type", |reader| reader.read_all(&Query::event_type("T"), Seek::Beginning)),
        ("by type, back", |reader| reader.read_all_back(&Query::event_type("T"), Seek::End)),
        ("stream", |reader| reader.read_stream("stream-1", Seek::Beginning)),
        ("stream, back", |reader| reader.read_stream_back("stream-1", Seek::End)),
    ];
    let mut errors = 0;
    for (name, reading) in readings {
        let begun = disk.steps();
        let expected: Vec<u64> = positions(reading(&reader).unwrap()).0;
        let count = disk.steps() - begun;
        assert!(count > 3, "{name} needs reads");
        for step in 0..count {
            disk.fail_at(disk.steps() + step, FaultKind::ReadEio, Repeat::Once);
            let hit = disk.faults_hit();
            let outcome = reading(&reader).map(positions);
            disk.clear_faults();
            if disk.faults_hit() == hit {
                continue;
            }
            errors += 1;
            match outcome {
                Err(error) => assert!(names_a_file(&error), "{name}: {error:?}"),
                Ok((found, error)) => {
                    let error = error.unwrap_or_else(|| panic!("{name}: read {step} failed, nobody was told"));
                    assert!(names_a_file(&error), "{name}: {error:?}");
                    assert_eq!(found, expected[..found.len()], "{name}: events before the error");
                    assert!(found.len() < expected.len(), "{name}: all events and an error");
                }
            }
        }
    }
    assert!(errors > 100, "only {errors} reads failed");
}

/// What an iterator hands out, and the error that ended it.
fn positions(mut read: Read) -> (Vec<u64>, Option<Error>) {
    let mut found = Vec::new();
    while let Some(event) = read.next() {
        match event {
            Ok(event) => found.push(event.position().get()),
            Err(error) => {
                assert!(read.next().is_none(), "an iterator goes on after an error");
                assert!(read.next().is_none(), "an iterator goes on after an error");
                return (found, Some(error));
            }
        }
    }
    (found, None)
}

fn names_a_file(error: &Error) -> bool {
    match error {
        Error::Io { file, .. } => file.starts_with("segment-"),
        Error::Corrupt(corrupt) => corrupt.file.starts_with("segment-"),
        _ => false,
    }
}

/// The borrowed form of a scan tells of an error as well.
#[test]
fn a_scan_by_closure_ends_with_the_error() {
    let (disk, store) = store_of_some_segments();
    let begun = disk.steps();
    let scan = || store.read_all(&Query::all(), Seek::Beginning)?.for_each_event(|_| ControlFlow::<()>::Continue(()));
    scan().unwrap();
    for step in 0..disk.steps() - begun {
        disk.fail_at(disk.steps() + step, FaultKind::ReadEio, Repeat::Once);
        let hit = disk.faults_hit();
        let outcome = scan();
        disk.clear_faults();
        assert_eq!(outcome.is_err(), disk.faults_hit() > hit, "read {step}: {outcome:?}");
    }
}

/// Fills a disk of random size, again and again: clean errors, nothing lost, reading goes on, and so does appending when
/// there is room.
#[test]
fn a_full_disk_is_a_clean_error() {
    let seed = seed("a_full_disk_is_a_clean_error");
    for round in 0..how_many(40, 600).min(10_000) {
        let seed = seed.wrapping_add(round);
        full_disk(&mut Dice::of(seed, 0x4655)).unwrap_or_else(|text| panic!("ANNALS_SEED={seed}: {text}"));
    }
}

fn full_disk(dice: &mut Dice) -> Verdict {
    let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
    let options = small(durability, ReadMode::Mapped);
    let (disk, mut truth) = (SimDisk::new(), Truth::new(durability));
    disk.set_capacity(Some(300_000 + dice.below(900_000)));
    let store = open(&disk, &mut truth, &options)?.ok_or("no room for an empty store")?;
    for fill in 0..3 {
        let mut refused = 0;
        while refused < 3 {
            let lot = Arc::new(Lot::random(dice));
            let index = truth.hand_in(&lot);
            match lot.append(&store, durability) {
                Ok(receipt) => truth.acknowledge(index, &receipt)?,
                Err(Error::NoSpace { .. }) => {
                    truth.take_back();
                    refused += 1;
                }
                Err(error) => return Err(format!("a full disk is told as {error:?}")),
            }
        }
        store.sync().map_err(|error| format!("sync on a full disk: {error}"))?;
        judge_reader(&store.reader_in(View::Written), &truth).map_err(|text| format!("fill {fill}: {text}"))?;
        let full = disk.after_kill();
        match options.clone().open_storage(Arc::new(full.clone())) {
            Err(Error::NoSpace { .. }) => {}
            Err(error) => return Err(format!("opening on a full disk: {error:?}")),
            Ok(store) => ensure!(store.head() == truth.end(), "opening on a full disk lost events"),
        }
        full.set_capacity(None);
        examine(&full.after_kill(), truth.clone(), &options, dice)?;
        let used: u64 = disk.files().values().map(|bytes| bytes.len() as u64).sum();
        disk.set_capacity(Some(used + 200_000 + dice.below(400_000)));
    }
    Ok(())
}

/// A store's quota: the same, and it holds after reopening.
#[test]
fn a_quota_is_a_clean_error() {
    let disk = SimDisk::new();
    let options = small(Durability::Durable, ReadMode::Mapped).quota_bytes(Some(400 << 10));
    let payload = vec![1; 5_000];
    let mut stored = 0;
    for round in 0..3 {
        let store = options.clone().open_storage(Arc::new(disk.clone())).unwrap();
        assert_eq!(store.head(), stored);
        let mut refused = 0;
        while refused < 3 {
            match store.append("s", annals::Expect::Any, &[NewEvent::new("T", &payload)]) {
                Ok(_) => stored += 1,
                Err(Error::NoSpace { .. }) => refused += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
        assert!(stored > 40, "round {round}: {stored} events in 400 KiB");
        let read: annals::Result<Vec<Event>> = store.read_all(&Query::all(), Seek::Beginning).unwrap().collect();
        assert_eq!(read.unwrap().len() as u64, stored);
    }
}
