//! The same events for every engine, prepared in memory before anything is timed.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::random::Random;

/// Streams that may occur in the generated set.
pub const STREAMS: usize = 100_000;
/// Exponent of the popularity of streams.
pub const ZIPF: f64 = 1.1;
/// Bytes of a generated payload.
pub const PAYLOAD_LEN: usize = 256;
/// Distinct payloads: 64 MiB of them, more than a processor caches.
const POOL: usize = 1 << 18;
/// Event types of twelve bytes.
const TYPES: [&str; 6] =
    ["OrderPlaced1", "OrderPaid001", "OrderPacked1", "OrderShipped", "ItemRemoved1", "NoteWritten1"];

/// Where payloads come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// 256 bytes, by `synth.py` where `ANNALS_DATA` names its directory, else by this module.
    Fixed,
    /// `scoop.jsonl.zst` of `ANNALS_DATA`: real names, types and payloads, repeated as often as needed.
    Scoop,
}

/// An event as an adapter sees it: names and bytes alone, so that every engine has to look the stream up.
#[derive(Clone, Copy, Debug)]
pub struct EventIn<'a> {
    /// The caller's id.
    pub id: [u8; 16],
    /// The stream's name.
    pub stream: &'a str,
    /// How many events the stream holds before this one, those earlier in the same batch included: the expectation.
    pub revision: u64,
    /// Whether no earlier event of the same batch is of this stream.
    pub first_in_batch: bool,
    /// The event's type.
    pub event_type: &'a str,
    /// The event's bytes.
    pub payload: &'a [u8],
}

struct Item {
    stream: u32,
    event_type: u32,
    payload: u64,
    payload_len: u32,
    revision: u32,
}

/// A prepared sequence of events.
pub struct Workload {
    /// A line for the report.
    pub description: String,
    names: Vec<String>,
    types: Vec<String>,
    arena: Vec<u8>,
    items: Vec<Item>,
    ids: Vec<[u8; 16]>,
}

impl Workload {
    /// Prepares `count` events.
    pub fn prepare(source: Source, count: usize, scratch: &Path) -> Result<Self> {
        match source {
            Source::Fixed => Self::fixed(count, scratch),
            Source::Scoop => Self::scoop(count),
        }
    }

    fn fixed(count: usize, scratch: &Path) -> Result<Self> {
        let wanted = count.min(POOL);
        let Payloads { arena, lens, origin } = Payloads::fixed(wanted, scratch)?;
        let mut starts = Vec::with_capacity(lens.len());
        let mut at = 0u64;
        for len in &lens {
            starts.push(at);
            at += u64::from(*len);
        }
        let names = (0..STREAMS).map(|n| format!("stream-{n:06}")).collect::<Vec<_>>();
        let mut zipf = Zipf::new(STREAMS, ZIPF);
        let mut random = Random::new(7);
        let items = (0..count).map(|n| Item {
            stream: zipf.draw(&mut random),
            event_type: (random.next() % TYPES.len() as u64) as u32,
            payload: starts[n % starts.len()],
            payload_len: lens[n % lens.len()],
            revision: 0,
        });
        let items = items.collect();
        let types = TYPES.map(str::to_owned).to_vec();
        let description = format!(
            "{count} events of {PAYLOAD_LEN} B ({origin}, {wanted} distinct payloads), up to {STREAMS} streams of 13 B \
             names, Zipf {ZIPF}, 12 B types, caller's ids"
        );
        Ok(Self::finish(description, names, types, arena, items))
    }

    fn scoop(count: usize) -> Result<Self> {
        let dir = data_dir().ok_or("scoop.jsonl.zst is looked for in the directory ANNALS_DATA names")?;
        let file = std::fs::File::open(dir.join("scoop.jsonl.zst"))?;
        let lines = std::io::BufReader::new(zstd::Decoder::new(file)?);
        let (mut names, mut types) = (Interner::default(), Interner::default());
        let (mut arena, mut lines_read) = (Vec::new(), Vec::new());
        for line in lines.lines() {
            let line = Line::parse(&line?)?;
            lines_read.push(Item {
                stream: names.number(&line.stream),
                event_type: types.number(&line.event_type),
                payload: arena.len() as u64,
                payload_len: line.data.len() as u32,
                revision: 0,
            });
            arena.extend_from_slice(line.data.as_bytes());
        }
        let items = (0..count).map(|n| {
            let line = &lines_read[n % lines_read.len()];
            Item { ..*line }
        });
        let items = items.collect();
        let description = format!(
            "{count} events of scoop ({} lines repeated, mean payload {} B, {} streams)",
            lines_read.len(),
            arena.len() / lines_read.len(),
            names.names.len()
        );
        Ok(Self::finish(description, names.names, types.names, arena, items))
    }

    fn finish(
        description: String,
        names: Vec<String>,
        types: Vec<String>,
        arena: Vec<u8>,
        mut items: Vec<Item>,
    ) -> Self {
        let mut heads = vec![0u32; names.len()];
        for item in &mut items {
            item.revision = heads[item.stream as usize];
            heads[item.stream as usize] += 1;
        }
        let mut random = Random::new(0x1d5);
        let ids = items.iter().map(|_| random.bytes16()).collect();
        Self { description, names, types, arena, items, ids }
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of the payloads of the first `count` events.
    pub fn payload_bytes(&self, count: usize) -> u64 {
        self.items[..count.min(self.items.len())].iter().map(|item| u64::from(item.payload_len)).sum()
    }

    /// The event of this number; `first_in_batch` is true.
    #[inline]
    pub fn event(&self, number: usize) -> EventIn<'_> {
        let item = &self.items[number];
        EventIn {
            id: self.ids[number],
            stream: &self.names[item.stream as usize],
            revision: u64::from(item.revision),
            first_in_batch: true,
            event_type: &self.types[item.event_type as usize],
            payload: &self.arena[item.payload as usize..][..item.payload_len as usize],
        }
    }

    /// Marks the events that are the first of their stream in their batch, for batches of `len` events.
    pub fn firsts(&self, len: usize) -> Vec<bool> {
        let mut seen_in = vec![usize::MAX; self.names.len()];
        let mark = |(number, item): (usize, &Item)| {
            let batch = number / len;
            std::mem::replace(&mut seen_in[item.stream as usize], batch) != batch
        };
        self.items.iter().enumerate().map(mark).collect()
    }

    /// The numbers of the events each of `writers` appends: a stream belongs to one writer, in its own order.
    pub fn shares(&self, writers: usize) -> Vec<Vec<u32>> {
        let mut shares = vec![Vec::new(); writers];
        for (number, item) in self.items.iter().enumerate() {
            shares[item.stream as usize % writers].push(number as u32);
        }
        shares
    }

    /// The names of the streams that occur in the first `count` events, with their number of events.
    pub fn heads(&self, count: usize) -> Vec<(&str, u64)> {
        let mut heads = vec![0u64; self.names.len()];
        for item in &self.items[..count.min(self.items.len())] {
            heads[item.stream as usize] += 1;
        }
        let named = self.names.iter().map(String::as_str).zip(heads);
        named.filter(|(_, head)| *head > 0).collect()
    }
}

/// Payloads one behind the other.
pub struct Payloads {
    /// Their bytes.
    pub arena: Vec<u8>,
    /// The length of each.
    pub lens: Vec<u32>,
    /// Who made them.
    pub origin: &'static str,
}

impl Payloads {
    /// `count` of 256 bytes, by `synth.py` where `ANNALS_DATA` names its directory.
    pub fn fixed(count: usize, scratch: &Path) -> Result<Self> {
        let (arena, lens, origin) = match data_dir() {
            Some(dir) => {
                let (arena, lens) = synth_payloads(&dir, count, scratch)?;
                (arena, lens, "synth.py")
            }
            None => {
                let (arena, lens) = own_payloads(count);
                (arena, lens, "own generator")
            }
        };
        Ok(Self { arena, lens, origin })
    }

    /// A few of this module's own, at once and without a file.
    pub fn few(count: usize) -> Self {
        let (arena, lens) = own_payloads(count);
        Self { arena, lens, origin: "own generator" }
    }
}

/// The directory named by `ANNALS_DATA`.
fn data_dir() -> Option<PathBuf> {
    std::env::var_os("ANNALS_DATA").map(PathBuf::from)
}

/// Runs the generator once for `count` payloads and keeps them in `scratch` for later runs.
fn synth_payloads(dir: &Path, count: usize, scratch: &Path) -> Result<(Vec<u8>, Vec<u32>)> {
    let path = scratch.join(format!("synth-{count}.jsonl"));
    if !path.exists() {
        let part = path.with_extension("part");
        let status = Command::new("python3")
            .arg(dir.join("synth.py"))
            .args(["--payload", "fixed:256", "--zipf", "1.1", "--seed", "7", "--streams", "100000"])
            .args(["--events", &count.to_string(), "--out"])
            .arg(&part)
            .status()?;
        if !status.success() {
            return Err(format!("synth.py ended with {status}").into());
        }
        std::fs::rename(part, &path)?;
    }
    let (mut arena, mut lens) = (Vec::with_capacity(count * PAYLOAD_LEN), Vec::with_capacity(count));
    for line in std::io::BufReader::new(std::fs::File::open(&path)?).lines() {
        let line = Line::parse(&line?)?;
        lens.push(line.data.len() as u32);
        arena.extend_from_slice(line.data.as_bytes());
    }
    Ok((arena, lens))
}

/// What is used of a line of the common JSON Lines form.
struct Line {
    stream: String,
    event_type: String,
    data: String,
}

impl Line {
    fn parse(line: &str) -> Result<Self> {
        let fields: std::collections::HashMap<String, Box<serde_json::value::RawValue>> = serde_json::from_str(line)?;
        let text = |name: &str| -> Result<String> {
            let raw = fields.get(name).ok_or_else(|| format!("a line without {name}"))?;
            Ok(serde_json::from_str(raw.get())?)
        };
        let data = fields.get("data").ok_or("a line without data")?.get().to_owned();
        Ok(Self { stream: text("stream")?, event_type: text("type")?, data })
    }
}

/// Payloads of the same shape as the generator's: a small JSON object, words and a few incompressible numbers.
fn own_payloads(count: usize) -> (Vec<u8>, Vec<u32>) {
    const STATES: [&str; 5] = ["paid", "open", "shipped", "on-hold", "returned"];
    let mut random = Random::new(7);
    let words: Vec<String> = (0..200).map(|_| random.word()).collect();
    let mut arena = Vec::with_capacity(count * PAYLOAD_LEN);
    for _ in 0..count {
        let state = STATES[random.next() as usize % STATES.len()];
        let head = format!(
            "{{\"seq\":{},\"amount\":{},\"status\":\"{state}\",\"note\":\"",
            random.next() % 50,
            random.next() % 20_000
        );
        let mut payload = head.into_bytes();
        while payload.len() < PAYLOAD_LEN - 2 {
            match random.next() % 6 {
                0 => payload.extend_from_slice(format!("{:016x}", random.next() >> 13).as_bytes()),
                n => payload.extend_from_slice(words[(random.next() ^ n) as usize % words.len()].as_bytes()),
            }
            payload.push(b' ');
        }
        payload.truncate(PAYLOAD_LEN - 2);
        payload.extend_from_slice(b"\"}");
        arena.extend_from_slice(&payload);
    }
    (arena, vec![PAYLOAD_LEN as u32; count])
}

/// Numbers for names, in the order of their first occurrence.
#[derive(Default)]
struct Interner {
    numbers: std::collections::HashMap<String, u32>,
    names: Vec<String>,
}

impl Interner {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.numbers.insert(name.to_owned(), number);
        self.names.push(name.to_owned());
        number
    }
}

/// Draws ranks by Zipf's law from a table of cumulated weights; ranks are scattered over the numbers.
struct Zipf {
    cumulated: Vec<f64>,
    scattered: Vec<u32>,
}

impl Zipf {
    fn new(count: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let weigh = |rank: usize| {
            sum += (rank as f64 + 1.0).powf(-exponent);
            sum
        };
        let cumulated = (0..count).map(weigh).collect();
        let mut scattered: Vec<u32> = (0..count as u32).collect();
        let mut random = Random::new(11);
        for n in (1..count).rev() {
            scattered.swap(n, random.next() as usize % (n + 1));
        }
        Self { cumulated, scattered }
    }

    fn draw(&mut self, random: &mut Random) -> u32 {
        let total = self.cumulated[self.cumulated.len() - 1];
        let aim = random.fraction() * total;
        let rank = self.cumulated.partition_point(|sum| *sum < aim);
        self.scattered[rank.min(self.scattered.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_count_up_in_every_stream() {
        let (arena, lens) = own_payloads(10);
        assert_eq!(arena.len(), 10 * PAYLOAD_LEN);
        assert!(lens.iter().all(|len| *len as usize == PAYLOAD_LEN));
        let work = Workload::prepare(Source::Fixed, 5_000, &std::env::temp_dir()).unwrap();
        let mut heads = std::collections::HashMap::new();
        for number in 0..work.len() {
            let event = work.event(number);
            assert_eq!((event.stream.len(), event.event_type.len(), event.payload.len()), (13, 12, 256));
            let head = heads.entry(event.stream).or_insert(0u64);
            assert_eq!(event.revision, *head);
            *head += 1;
        }
        assert_eq!(work.heads(5_000).iter().map(|(_, head)| head).sum::<u64>(), 5_000);
    }

    #[test]
    fn streams_are_shared_out_and_batches_marked() {
        let work = Workload::prepare(Source::Fixed, 2_000, &std::env::temp_dir()).unwrap();
        let shares = work.shares(8);
        assert_eq!(shares.iter().map(Vec::len).sum::<usize>(), 2_000);
        let firsts = work.firsts(100);
        for (batch, firsts) in firsts.chunks(100).enumerate() {
            let mut seen = std::collections::HashSet::new();
            for (number, first) in firsts.iter().enumerate() {
                assert_eq!(*first, seen.insert(work.event(batch * 100 + number).stream));
            }
        }
    }

    #[test]
    fn popular_streams_follow_zipf() {
        let (mut zipf, mut random) = (Zipf::new(1000, 1.1), Random::new(1));
        let mut counts = vec![0u32; 1000];
        (0..100_000).for_each(|_| counts[zipf.draw(&mut random) as usize] += 1);
        let top = counts[zipf.scattered[0] as usize];
        let second = counts[zipf.scattered[1] as usize];
        let ratio = f64::from(top) / f64::from(second);
        assert!((1.9..2.4).contains(&ratio), "{ratio}");
    }
}
