//! Do the tests bite? Each planted fault is one line in the real code behind `cfg(annals_plant = "...")`. This builds
//! them one by one and runs the ordinary tests until one fails; a fault that no test notices is an error. First the tests
//! have to pass without any.
//!
//! ```text
//! cargo run -p annals-tests --bin plant            # all of them, in a build directory of their own
//! cargo run -p annals-tests --bin plant no-sync    # this one
//! ```
//!
//! Compiles the workspace's crates anew for each fault. To that end it is also the wrapper that cargo calls in the place
//! of the compiler: dependencies are then compiled once.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::{Duration, Instant};

const FAULTS: [&str; 18] = [
    "no-sync",
    "no-dir-sync",
    "sync-repeated-after-failure",
    "no-checksum",
    "checksum-bit-ignored",
    "torn-tail-not-fenced",
    "answer-before-sync",
    "watermark-early",
    "mark-ahead-of-log",
    "recovery-keeps-unsynced-bytes",
    "wrong-ordering",
    "skipped-revision-check",
    "id-index-forgets-at-roll",
    "snapshot-ahead-of-log",
    "snapshot-not-synced",
    "clean-up-removes-first",
    "compaction-unlinks-first",
    "copies-not-synced",
];

/// Package and test, the cheaper ones first. None of them knows of planted faults.
const TESTS: [(&str, &str); 8] = [
    ("annals-tests", "power_loss"),
    ("annals-tests", "faults"),
    ("annals-tests", "model"),
    ("annals-tests", "damage"),
    ("annals-tests", "contract"),
    ("annals-format", "refusals"),
    ("annals-tests", "snapshot_histories"),
    ("annals-tests", "upkeep_crashes"),
];

/// The name of no fault.
const NOTHING: &str = "nothing";

/// What the wrapper is told by.
const PLANT: &str = "ANNALS_PLANT";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Ok(fault) = std::env::var(PLANT) {
        return compile(&arguments, &fault);
    }
    let chosen: Vec<&str> = match arguments.is_empty() {
        true => FAULTS.to_vec(),
        false => arguments.iter().map(String::as_str).collect(),
    };
    if let Some(unknown) = chosen.iter().find(|fault| !FAULTS.contains(fault)) {
        eprintln!("no planted fault is named {unknown}; there are {}", FAULTS.join(", "));
        return ExitCode::FAILURE;
    }
    let ground = Ground::new();
    if arguments.is_empty() {
        // Tests that fail anyway would catch everything.
        match ground.catch(NOTHING) {
            Ok(None) => eprintln!("without a fault all tests pass"),
            other => {
                eprintln!("without a fault: {other:?}");
                return ExitCode::FAILURE;
            }
        }
    }
    let mut missed = Vec::new();
    let mut table = String::new();
    for fault in chosen {
        let row = match ground.catch(fault) {
            Ok(Some((test, took))) => format!("{fault:<32} {test:<60} {:>6.1} s", took.as_secs_f64()),
            Ok(None) => {
                missed.push(fault);
                format!("{fault:<32} NOT CAUGHT")
            }
            Err(text) => {
                missed.push(fault);
                format!("{fault:<32} could not be tried: {text}")
            }
        };
        eprintln!("{row}");
        table += &row;
        table.push('\n');
    }
    println!("fault                            caught by{:>51}   time", "");
    print!("{table}");
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Called by cargo with the compiler and its arguments: compiles with the fault built in.
fn compile(arguments: &[String], fault: &str) -> ExitCode {
    let Some((compiler, rest)) = arguments.split_first() else { return ExitCode::FAILURE };
    let status = Command::new(compiler).args(rest).args(["--cfg", &format!("annals_plant=\"{fault}\"")]).status();
    if status.is_ok_and(|status| status.success()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where faulty code is built, apart from all else.
struct Ground {
    workspace: PathBuf,
    build: PathBuf,
}

impl Ground {
    fn new() -> Self {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned();
        let build = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(ordinary) => PathBuf::from(ordinary).join("planted"),
            None => workspace.join("target").join("planted"),
        };
        Self { workspace, build }
    }

    fn cargo(&self, fault: &str, arguments: &[&str]) -> Result<Output, String> {
        let wrapper = std::env::current_exe().map_err(|error| error.to_string())?;
        Command::new("cargo")
            .current_dir(&self.workspace)
            .args(arguments)
            .env("CARGO_TARGET_DIR", &self.build)
            .env("RUSTC_WORKSPACE_WRAPPER", wrapper)
            .env(PLANT, fault)
            .env("RUST_BACKTRACE", "0")
            .output()
            .map_err(|error| format!("cargo: {error}"))
    }

    /// The first test that fails with the fault built in, and how long it ran.
    fn catch(&self, fault: &str) -> Result<Option<(String, Duration)>, String> {
        // Cargo does not see what the wrapper adds, so what is to hold the fault is forgotten first.
        self.cargo(fault, &["clean", "--quiet", "-p", "annals", "-p", "annals-format", "-p", "annals-tests"])?;
        for (package, test) in TESTS {
            let built = self.cargo(fault, &["test", "--quiet", "--no-run", "-p", package, "--test", test])?;
            if !built.status.success() {
                return Err(format!("{test} does not compile\n{}", String::from_utf8_lossy(&built.stderr)));
            }
            let begun = Instant::now();
            let run = self.cargo(fault, &["test", "--quiet", "-p", package, "--test", test])?;
            if !run.status.success() {
                let output = String::from_utf8_lossy(&run.stdout).into_owned();
                return Ok(Some((format!("{test}: {}", first_failure(&output)), begun.elapsed())));
            }
        }
        Ok(None)
    }
}

/// The first failing test's name in the output of a test run.
fn first_failure(output: &str) -> &str {
    let failed = |line: &&str| line.starts_with("    ") && !line.trim().is_empty();
    output.rsplit("failures:").next().and_then(|end| end.lines().find(failed)).map_or("the run broke off", str::trim)
}
