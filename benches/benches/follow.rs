//! From the store that publishes the durable head to the first byte in a follower of another process, which sleeps; the
//! writer is idle in between. Beside it the floor: a bare futex on a mapped page.
//!
//! `cargo bench -p annals-benches --bench follow [-- ROUNDS [DIRECTORY]]`

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use annals::storage::{Access, Disk, Fill, Storage};
use annals::{Expect, Follower, Message, NewEvent, Query, Seek, Store};
use rustix::time::{ClockId, clock_gettime};

const IDLE: Duration = Duration::from_millis(2);
const TURN: usize = 128;

fn now() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.first().is_some_and(|role| role == "follower") {
        return follower(Path::new(&arguments[1]), arguments[2].parse().expect("rounds"));
    }
    if arguments.first().is_some_and(|role| role == "floor") {
        return sleeper(Path::new(&arguments[1]), arguments[2].parse().expect("rounds"));
    }
    let directory = if arguments.len() > 1 { Some(arguments.remove(1)) } else { None };
    let rounds: u32 = arguments.first().map_or(2_000, |rounds| rounds.parse().expect("rounds"));
    let here = directory.map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(here).expect("a directory");
    let wake = floor(dir.path(), rounds);
    let store = Store::open(dir.path().join("store")).expect("a store");
    let mut child = start("follower", &dir.path().join("store"), rounds);
    let mut seen = lines(&mut child);
    seen.next();
    let mut returned = Vec::new();
    for _ in 0..rounds {
        std::thread::sleep(IDLE);
        store.append("s", Expect::Any, &[NewEvent::new("T", &[7; 256])]).expect("appended");
        returned.push(now());
    }
    let seen: Vec<i64> = seen.take(rounds as usize).collect();
    // The append returns when it has woken the follower: that call's time is added.
    let latencies = returned.iter().zip(&seen).map(|(returned, seen)| seen - returned + wake).collect();
    told("follower, durable append", latencies);
    child.wait().expect("the follower ends");
}

/// Times at which a follower saw the first byte of each event.
fn follower(path: &Path, rounds: u32) {
    let follower = Follower::open(path).expect("a store");
    let mut subscription = follower.subscribe(&Query::all(), Seek::End).expect("a subscription");
    println!("0");
    let mut seen = Vec::new();
    while seen.len() < rounds as usize {
        if let Some(Ok(Message::Event(event))) = subscription.iter().next() {
            assert_eq!(event.payload()[0], 7);
            seen.push(now());
        }
    }
    let text: String = seen.iter().map(|at| format!("{at}\n")).collect();
    std::io::stdout().write_all(text.as_bytes()).expect("the parent reads");
}

/// A bare futex between two processes; the median of what waking costs who wakes.
fn floor(dir: &Path, rounds: u32) -> i64 {
    let disk = Disk::open(dir).expect("a directory");
    let file = disk.create("page", 4096, Fill::Zeroed).expect("a page");
    let page = file.map_shared().expect("a map");
    let mut child = start("floor", dir, rounds);
    let mut seen = lines(&mut child);
    seen.next();
    let (mut stored, mut wakes) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        std::thread::sleep(IDLE);
        let before = now();
        page.half_word(TURN).store(round, Ordering::Release);
        let _ =
            rustix::thread::futex::wake(page.half_word(TURN), rustix::thread::futex::Flags::empty(), i32::MAX as u32);
        wakes.push(now() - before);
        stored.push(before);
    }
    let seen: Vec<i64> = seen.take(rounds as usize).collect();
    told("floor: bare futex", stored.iter().zip(&seen).map(|(stored, seen)| seen - stored).collect());
    wakes.sort_unstable();
    let median = wakes[wakes.len() / 2];
    told("waking, for who wakes", wakes);
    child.wait().expect("the sleeper ends");
    median
}

fn sleeper(dir: &Path, rounds: u32) {
    let page = Disk::open(dir).and_then(|disk| disk.open("page", Access::Read)).and_then(|file| file.map_shared());
    let page = page.expect("a page");
    println!("0");
    let (mut turn, mut seen) = (0, Vec::new());
    while turn < rounds {
        let _ = rustix::thread::futex::wait(page.half_word(TURN), rustix::thread::futex::Flags::empty(), turn, None);
        let found = page.half_word(TURN).load(Ordering::Acquire);
        if found != turn {
            seen.resize(found as usize, now());
            turn = found;
        }
    }
    let text: String = seen.iter().map(|at| format!("{at}\n")).collect();
    std::io::stdout().write_all(text.as_bytes()).expect("the parent reads");
}

fn start(role: &str, path: &Path, rounds: u32) -> Child {
    let this = std::env::current_exe().expect("this program");
    let mut command = Command::new(this);
    command.arg(role).arg(path).arg(rounds.to_string()).stdout(Stdio::piped());
    command.spawn().expect("a process")
}

fn lines(child: &mut Child) -> impl Iterator<Item = i64> + use<> {
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    lines.map_while(Result::ok).map(|line| line.parse().expect("a time"))
}

fn told(what: &str, mut times: Vec<i64>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    println!(
        "{what}: p50 {:.1} p90 {:.1} p99 {:.1} p99.9 {:.1} p99.99 {:.1} max {:.1} us",
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(0.9999),
        at(1.0)
    );
}
