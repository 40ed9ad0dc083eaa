//! Golden stores: files as a version of the format wrote them, kept for ever, and what they must show.
//!
//! The generator (`--bin golden`) writes them once per format version; nothing of them is ever written again. A store
//! lies in `golden/<version>/<name>/`, each file compressed by itself, with two lists beside: `files.txt`, name and
//! SHA-256 of each file, and `events.txt.zst`, a line for every event.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use annals::{
    Batch, CompactionOptions, ConsumerInfo, ConsumerOptions, Durability, EventId, Expect, NewEvent, OccurredAt,
    Options, Query, ReadEvents, Reader, Retention, Revision, Scope, Seek, Snapshots, Store,
};
use sha2::{Digest, Sha256};

use super::clock::ManualClock;
use super::content::Recorded;
use crate::sim_disk::SimDisk;

/// Files of a store by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A store and a line for each of its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Golden {
    /// Its files.
    pub files: Files,
    /// One line for each event.
    pub events: String,
}

/// The options that golden stores are written with and opened by.
#[must_use]
pub fn options() -> Options {
    Options::new()
        .segment_bytes_max(64 << 10)
        .ring_bytes(64 << 10)
        .background(false)
        .clock(Arc::new(ManualClock::at(1_800_000_000_000_000_000)))
}

/// The stores of this version, made now.
///
/// # Errors
/// If a store cannot be written.
pub fn make() -> annals::Result<BTreeMap<&'static str, Golden>> {
    Ok(BTreeMap::from([
        ("closed", closed()?),
        ("cut", cut()?),
        ("killed", killed(120, 1_500)?),
        ("removed", removed()?),
        ("torn", killed(20, 34_000)?),
        ("consumers", consumers(false)?),
        ("consumers_killed", consumers(true)?),
        ("everything", everything()?),
        // The same, made again when the encoding of containers had changed.
        ("compacted", everything()?),
        ("covered", covered()?),
    ]))
}

/// Two consumers over several segments, with what they finished out of order, parked, and acknowledged in batches of events;
/// closed cleanly, or killed with the newest acknowledgements in the ring alone.
fn consumers(is_killed: bool) -> annals::Result<Golden> {
    let disk = SimDisk::new();
    let store = options().open_storage(Arc::new(disk.clone()))?;
    let query = Query::prefix("stream-");
    let mail = store.consumer("mail", ConsumerOptions::new().query(query.clone()).window(200))?;
    let bill = store.consumer("größere Rechnungen", ConsumerOptions::new().query(query).start(Seek::Beginning))?;
    for rows in 0..7 {
        fill(&store, rows * 25..(rows + 1) * 25, Durability::Durable)?;
        while let Some(event) = mail.next(Duration::ZERO)? {
            match event.position().get() % 13 {
                0 => {}
                1 if rows % 4 == 0 => mail.park(&event, "no such address")?,
                n if n % 3 == 0 => {
                    let effect = NewEvent::new("Sent", event.payload());
                    store.commit(&Batch::new().event("sent", effect).acknowledge(&event)).map(drop)?;
                }
                _ => mail.ack(&event)?,
            }
        }
        while let Some(event) = bill.next(Duration::ZERO)? {
            bill.ack(&event)?;
        }
    }
    let events = listing(&store.reader())?;
    let mut files = if is_killed {
        disk.after_kill().files()
    } else {
        drop((mail, bill));
        store.close()?;
        disk.files()
    };
    // What other processes look at beside a living writer is no part of a store at rest; tiers and directories have tests of
    // their own.
    files.retain(|name, _| {
        name != "CONTROL" && !["INDEX-", "tier-", "streams-"].iter().any(|kind| name.starts_with(kind))
    });
    Ok(Golden { files, events })
}

/// A line for each consumer of a store.
#[must_use]
pub fn consumers_of(store: &Store) -> String {
    let line = |info: ConsumerInfo| {
        let ConsumerInfo { name, checkpoint, finished_above, parked, generation, changed_at, .. } = info;
        format!("{name}: {checkpoint} {finished_above} {parked} {generation} {changed_at}\n")
    };
    store.consumers().into_iter().map(line).collect()
}

/// `Durable`, several segments, every part of an event, closed cleanly.
fn closed() -> annals::Result<Golden> {
    let disk = SimDisk::new();
    let store = options().open_storage(Arc::new(disk.clone()))?;
    fill(&store, 0..260, Durability::Durable)?;
    let large = vec![0x61; 70_000];
    store.append("large", Expect::NoStream, &[NewEvent::new("Longer than a segment", &large)])?;
    fill(&store, 260..300, Durability::Durable)?;
    let events = listing(&store.reader())?;
    store.close()?;
    Ok(Golden { files: disk.files(), events })
}

/// `Buffered`, killed with its newest batches in the ring alone. Of the last one, of `len` bytes, only the first half is
/// there: in the ring, or in the segment if it is too long for the ring.
fn killed(rows: u64, len: usize) -> annals::Result<Golden> {
    let disk = SimDisk::new();
    let store = options().durability(Durability::Buffered).open_storage(Arc::new(disk.clone()))?;
    fill(&store, 0..rows, Durability::Buffered)?;
    store.sync()?;
    fill(&store, rows..rows * 5 / 4, Durability::Buffered)?;
    let events = listing(&store.reader())?;
    let before = disk.after_kill().files();
    let torn = vec![0x74; len];
    store.append("torn", annals::Expect::NoStream, &[NewEvent::new("Torn", &torn)])?;
    let mut files = disk.after_kill().files();
    for (name, bytes) in &mut files {
        let old = &before[name];
        let changed: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != old[*at]).collect();
        // What came last of the batch never reached its place.
        for at in &changed[changed.len() / 2..] {
            bytes[*at] = old[*at];
        }
    }
    Ok(Golden { files, events })
}

/// Killed and recovered: a segment that recovery cut, batches written anew, a second incarnation; closed cleanly.
fn cut() -> annals::Result<Golden> {
    let disk = SimDisk::new();
    let store = options().durability(Durability::Buffered).open_storage(Arc::new(disk.clone()))?;
    fill(&store, 0..90, Durability::Buffered)?;
    store.sync()?;
    fill(&store, 90..110, Durability::Buffered)?;
    let disk = disk.after_kill();
    drop(store);
    let store = options().open_storage(Arc::new(disk.clone()))?;
    assert_eq!((store.recovery_report().clean, store.recovery_report().kept_events > 0), (false, true));
    fill(&store, 110..200, Durability::Durable)?;
    let events = listing(&store.reader())?;
    store.close()?;
    Ok(Golden { files: disk.files(), events })
}

/// `Durable`, several segments, every kind of control record that removes, alone and with events, closed cleanly.
fn removed() -> annals::Result<Golden> {
    let revision = |number| Revision::new(number).expect("at least 1");
    let disk = SimDisk::new();
    let store = options().open_storage(Arc::new(disk.clone()))?;
    fill(&store, 0..90, Durability::Durable)?;
    store.truncate_before("stream-0", Expect::Exists, revision(4))?;
    store.delete("stream-1", Expect::Any)?;
    store.tombstone("stream-2", Expect::Any)?;
    store.delete("stream-3", Expect::Any)?;
    store.forget_stream("stream-3", Expect::Deleted)?;
    store.forget_ids("stream-0", Expect::Any)?;
    store.set_retention(&Scope::Prefix("stream-".to_owned()), Retention::new().max_count(9))?;
    store.set_retention(&Scope::Stream("stream-4".to_owned()), Retention::new().max_count(2))?;
    store.set_retention(&Scope::Store, Retention::new().max_bytes(40_000))?;
    store.sweep()?;
    let sum = NewEvent::new("Closed", b"sum").id(77u128);
    store.commit(&Batch::new().truncate_before("stream-5", revision(11)).event("stream-5", sum))?;
    let large = vec![0x61; 50_000];
    store.append("large", Expect::NoStream, &[NewEvent::new("Nearly a segment", &large)])?;
    store.append("stream-1", Expect::Deleted, &[NewEvent::new("Opened", b"again")])?;
    store.append("stream-3", Expect::NoStream, &[NewEvent::new("Opened", b"anew")])?;
    let events = listing(&store.reader())?;
    store.close()?;
    Ok(Golden { files: disk.files(), events })
}

/// Every kind of record and file that there is: compacted segments, some of them twice, with content taken out; snapshots,
/// compressed and not, superseded and void; consumers; every kind of control record, policies; closed cleanly.
fn everything() -> annals::Result<Golden> {
    let revision = |number| Revision::new(number).expect("at least 1");
    let compaction = CompactionOptions::new().block_bytes(8 << 10);
    let disk = SimDisk::new();
    let store = options().open_storage(Arc::new(disk.clone()))?;
    let mail = store.consumer("mail", ConsumerOptions::new().query(Query::prefix("stream-")).window(500))?;
    let (states, others) = (Snapshots::of("state", 1), Snapshots::of("state", 2).compress(false));
    fill(&store, 0..120, Durability::Durable)?;
    store.append("ended", Expect::NoStream, &[NewEvent::new("Opened", b"and ended for good")])?;
    states.save(&store, "stream-4", revision(6), &[4; 3_000])?;
    states.save(&store, "stream-4", revision(9), &[9; 5_000])?;
    others.save(&store, "stream-4", revision(8), b"of another schema")?;
    states.save(&store, "stream-5", revision(10), b"what takes the place of ten events")?;
    states.save(&store, "stream-1", revision(2), b"of a stream that will be deleted")?;
    store.truncate_before("stream-5", Expect::Exists, revision(9))?;
    store.set_retention(&Scope::Prefix("stream-6".to_owned()), Retention::new().max_count(5))?;
    store.sweep()?;
    store.compact(&compaction)?;
    while let Some(event) = mail.next(Duration::ZERO)? {
        match event.position().get() % 11 {
            0 => {}
            1 => mail.park(&event, "no such address")?,
            2 => {
                let effect = NewEvent::new("Sent", event.payload());
                store.commit(&Batch::new().event("sent", effect).acknowledge(&event)).map(drop)?;
            }
            _ => mail.ack(&event)?,
        }
    }
    store.consumer("gone", ConsumerOptions::new()).map(drop)?;
    store.remove_consumer("gone")?;
    store.consumer("reset", ConsumerOptions::new()).map(drop)?;
    store.reset_consumer("reset", Seek::After(70))?;
    fill(&store, 120..260, Durability::Durable)?;
    store.delete("stream-1", Expect::Any)?;
    store.tombstone("ended", Expect::Any)?;
    store.delete("stream-3", Expect::Any)?;
    store.forget_stream("stream-3", Expect::Deleted)?;
    store.forget_ids("stream-5", Expect::Any)?;
    store.set_retention(&Scope::Stream("stream-7".to_owned()), Retention::new().max_age(Duration::from_secs(9)))?;
    store.set_retention(&Scope::Store, Retention::new().max_bytes(90_000))?;
    store.sweep()?;
    store.compact(&compaction)?;
    states.save(&store, "stream-8", revision(20), &[8; 700])?;
    store.append("stream-1", Expect::Deleted, &[NewEvent::new("Opened", b"again")])?;
    store.append("stream-3", Expect::NoStream, &[NewEvent::new("Opened", b"anew")])?;
    fill(&store, 260..330, Durability::Durable)?;
    let events = listing(&store.reader())?;
    drop(mail);
    store.close()?;
    let mut files = disk.files();
    files.remove("CONTROL");
    Ok(Golden { files, events })
}

/// Segments that a tier and the directory cover, so that their index files keep places alone; closed cleanly.
fn covered() -> annals::Result<Golden> {
    let disk = SimDisk::new();
    let store = options().open_storage(Arc::new(disk.clone()))?;
    fill(&store, 0..260, Durability::Durable)?;
    let events = listing(&store.reader())?;
    // Closing makes the tier; whoever opens next finds what it covers.
    store.close()?;
    let store = options().open_storage(Arc::new(disk.clone()))?;
    store.check_index()?;
    store.close()?;
    let mut files = disk.files();
    files.remove("CONTROL");
    Ok(Golden { files, events })
}

/// A line for each snapshot of a store: what it is of, and a hash of the state.
///
/// # Errors
/// What reading tells.
pub fn snapshots_of(store: &Store) -> annals::Result<String> {
    let mut lines = String::new();
    for info in store.snapshots("")? {
        let kind = Snapshots::of(info.name.clone(), info.schema);
        let latest = store.latest_snapshot(&info.stream, &kind)?.filter(|latest| latest.revision() == info.revision);
        let state = latest.map_or("superseded".to_owned(), |latest| sha256(latest.state())[..16].to_owned());
        let (stream, name, schema, revision) = (info.stream, info.name, info.schema, info.revision);
        writeln!(lines, "{stream} {name} {schema} {revision}: {} bytes, {state}", info.len)
            .expect("a string takes all");
    }
    Ok(lines)
}

/// Appends rows of the script: single events and batches, to one and to many streams, with every optional part.
fn fill(store: &Store, rows: std::ops::Range<u64>, durability: Durability) -> annals::Result<()> {
    let mut row = rows.start;
    while row < rows.end {
        let count = if row.is_multiple_of(5) { 4 } else { 1 };
        append_rows(store, row..(row + count).min(rows.end), durability)?;
        row += count;
    }
    Ok(())
}

fn append_rows(store: &Store, rows: std::ops::Range<u64>, durability: Durability) -> annals::Result<()> {
    let with_ids = !rows.start.is_multiple_of(3);
    let texts: Vec<_> = rows.clone().map(|n| (format!("stream-{}", n % 9), text_of(n))).collect();
    let tags = [["kind:even", "é"], ["kind:odd", "日本"]];
    let mut batch = Batch::new().durability(durability).written_as_batch(rows.start.is_multiple_of(2));
    for (n, (stream, text)) in rows.zip(&texts) {
        let mut event = NewEvent::new(["Opened", "Changed", "Closed"][n as usize % 3], text);
        if with_ids {
            event = event.id(u128::from(n + 1) << 40);
        }
        if n.is_multiple_of(2) {
            event = event.tags(&tags[n as usize / 2 % 2]);
        }
        if n % 4 == 1 {
            event = event.metadata(br#"{"by":"golden"}"#).content_type("application/json");
        }
        if n.is_multiple_of(7) {
            event = event.correlation(b"correlation").causation(b"").schema_version(n as u32);
        }
        if n.is_multiple_of(6) {
            event = event.occurred_at(OccurredAt { nanos: -(n as i64) * 1_000_000, digits: (n % 10) as u8 });
        }
        batch.push(stream, event);
    }
    store.commit(&batch).map(drop)
}

fn text_of(n: u64) -> String {
    format!("{n}:{}", "golden ".repeat((n * 37 % 150) as usize))
}

/// A line for each event that a reader shows.
///
/// # Errors
/// What reading tells.
pub fn listing(reader: &Reader) -> annals::Result<String> {
    let mut lines = String::new();
    for event in reader.read_all(&Query::all(), Seek::Beginning)? {
        let recorded = Recorded::of(event?.as_event_ref());
        let mut content = recorded.content.clone();
        // Long bytes by their hash, so that the list stays small.
        content.payload = Sha256::digest(&content.payload).to_vec();
        let named = Recorded { content, ..recorded };
        writeln!(lines, "{named:?}").expect("a string takes all");
    }
    Ok(lines)
}

/// Ids of the events in a listing's store, read again.
///
/// # Errors
/// What reading tells.
pub fn ids(reader: &Reader) -> annals::Result<Vec<EventId>> {
    reader.read_all(&Query::all(), Seek::Beginning)?.map(|event| event.map(|event| event.id())).collect()
}

/// SHA-256 in hexadecimal digits.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Where golden stores of a format version lie.
#[must_use]
pub fn directory(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(version)
}

impl Golden {
    /// Name and SHA-256 of each file and of the list of events, a line each.
    #[must_use]
    pub fn file_list(&self) -> String {
        let mut list = String::new();
        for (name, bytes) in &self.files {
            writeln!(list, "{}  {name}", sha256(bytes)).expect("a string takes all");
        }
        writeln!(list, "{}  events.txt", sha256(self.events.as_bytes())).expect("a string takes all");
        list
    }

    /// Writes it to a new directory.
    ///
    /// # Errors
    /// If there is such a directory, or it cannot be written.
    pub fn save(&self, directory: &Path) -> std::io::Result<()> {
        std::fs::create_dir(directory)?;
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(directory.join(format!("{name}.zst")), zstd::encode_all(bytes, 19)?)
        };
        for (name, bytes) in &self.files {
            write(name, bytes)?;
        }
        write("events.txt", self.events.as_bytes())?;
        std::fs::write(directory.join("files.txt"), self.file_list())
    }

    /// Reads it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(directory: &Path) -> std::io::Result<Self> {
        let mut golden = Self { files: Files::new(), events: String::new() };
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(name) = name.strip_suffix(".zst") else { continue };
            let bytes = zstd::decode_all(std::fs::File::open(&path)?)?;
            if name == "events.txt" {
                golden.events = String::from_utf8(bytes).map_err(std::io::Error::other)?;
            } else {
                golden.files.insert(name.to_owned(), bytes);
            }
        }
        Ok(golden)
    }
}
