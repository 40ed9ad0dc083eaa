//! Do the tests bite? Each planted fault is one line in the real code behind `cfg(annals_plant = "...")`. This builds
//! them one by one and runs the ordinary tests until one fails; a fault that no test notices is an error. First the tests
//! have to pass without any.
//!
//! ```text
//! cargo run -p annals-tests --bin plant            # all of them, in a build directory of their own
//! cargo run -p annals-tests --bin plant no-sync    # this one
//! ```
//!
//! Each fault names the test that is expected to notice it, which runs first; if it does not, all are run. To build a fault
//! in, this program is also the wrapper that cargo calls in the place of the compiler: it adds the `cfg` to the crate that
//! holds the fault, and tells cargo what that crate now depends on. So this crate and those that use it are compiled for each
//! fault, incrementally, and nothing else is.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::{Duration, Instant};

/// A line that does wrong.
struct Fault {
    /// Its name, the value of the `cfg`.
    name: &'static str,
    /// The crate that holds it.
    place: &'static str,
    /// The test that is expected to notice it, of one of [`TESTS`].
    expected: (Test, &'static str),
}

/// The crates that hold faults.
const PLACES: [&str; 2] = [ENGINE, FORMAT];
const ENGINE: &str = "annals";
const FORMAT: &str = "annals_format";

/// Package and file.
type Test = (&'static str, &'static str);

const POWER_LOSS: Test = ("annals-tests", "power_loss");
const FAULTS_OF_DISKS: Test = ("annals-tests", "faults");
const MODEL: Test = ("annals-tests", "model");
const DAMAGE: Test = ("annals-tests", "damage");
const CONTRACT: Test = ("annals-tests", "contract");
const REFUSALS: Test = ("annals-format", "refusals");
const SNAPSHOT_HISTORIES: Test = ("annals-tests", "snapshot_histories");
const UPKEEP: Test = ("annals-tests", "upkeep_crashes");

/// All tests, the cheaper ones first. None of them knows of planted faults.
const TESTS: [Test; 8] = [POWER_LOSS, FAULTS_OF_DISKS, MODEL, DAMAGE, CONTRACT, REFUSALS, SNAPSHOT_HISTORIES, UPKEEP];

const fn fault(name: &'static str, place: &'static str, test: Test, function: &'static str) -> Fault {
    Fault { name, place, expected: (test, function) }
}

/// Every function of the file.
const ANY: &str = "";

const FAULTS: [Fault; 18] = [
    fault("no-sync", ENGINE, POWER_LOSS, "random_power_cuts"),
    fault("no-dir-sync", ENGINE, POWER_LOSS, "random_power_cuts"),
    fault("sync-repeated-after-failure", ENGINE, FAULTS_OF_DISKS, "every_operation_fails_once_and_for_ever"),
    fault("torn-tail-not-fenced", ENGINE, POWER_LOSS, "random_power_cuts"),
    fault("answer-before-sync", ENGINE, POWER_LOSS, "random_power_cuts"),
    fault("watermark-early", ENGINE, POWER_LOSS, "random_power_cuts"),
    fault("mark-ahead-of-log", ENGINE, POWER_LOSS, "random_power_cuts"),
    fault("recovery-keeps-unsynced-bytes", ENGINE, POWER_LOSS, "random_power_cuts"),
    fault("wrong-ordering", ENGINE, FAULTS_OF_DISKS, "readers_never_see_what_is_not_placed"),
    fault("skipped-revision-check", ENGINE, CONTRACT, "every_expectation_in_every_state"),
    fault("id-index-forgets-at-roll", ENGINE, CONTRACT, "a_retry_is_exact_for_ever_across_reopening_and_rolling"),
    fault("snapshot-ahead-of-log", ENGINE, SNAPSHOT_HISTORIES, ANY),
    fault("snapshot-not-synced", ENGINE, SNAPSHOT_HISTORIES, ANY),
    fault("clean-up-removes-first", ENGINE, SNAPSHOT_HISTORIES, ANY),
    fault("compaction-unlinks-first", ENGINE, UPKEEP, ANY),
    fault("copies-not-synced", ENGINE, UPKEEP, ANY),
    // Last, since with the format all is compiled anew.
    fault("no-checksum", FORMAT, REFUSALS, ANY),
    fault("checksum-bit-ignored", FORMAT, REFUSALS, ANY),
];

/// What the wrapper is told by: the fault in a crate, empty if there is none. One variable for each crate, so that another
/// fault elsewhere does not concern it.
fn variable(place: &str) -> String {
    format!("ANNALS_PLANT_IN_{place}")
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if std::env::var_os(variable(ENGINE)).is_some() {
        return compile(&arguments);
    }
    if let Some(unknown) = arguments.iter().find(|name| FAULTS.iter().all(|fault| fault.name != **name)) {
        eprintln!("no planted fault is named {unknown}; there are {}", FAULTS.map(|fault| fault.name).join(", "));
        return ExitCode::FAILURE;
    }
    let is_chosen = |fault: &&Fault| arguments.is_empty() || arguments.iter().any(|name| name == fault.name);
    let ground = Ground::new();
    if arguments.is_empty() {
        // Tests that fail anyway would catch everything.
        match ground.catch(None) {
            Ok(None) => eprintln!("without a fault all tests pass"),
            other => {
                eprintln!("without a fault: {other:?}");
                return ExitCode::FAILURE;
            }
        }
    }
    let mut is_fine = true;
    let mut table = String::new();
    for fault in FAULTS.iter().filter(is_chosen) {
        let begun = Instant::now();
        let caught = ground.catch(Some(fault));
        is_fine &= matches!(caught, Ok(Some(_)));
        let text = match caught {
            Ok(Some((test, took))) => {
                let (took, all) = (took.as_secs_f64(), begun.elapsed().as_secs_f64());
                format!("{test:<60} {took:>6.1} s {all:>9.1} s")
            }
            Ok(None) => "NOT CAUGHT".to_owned(),
            Err(text) => format!("could not be tried: {text}"),
        };
        let row = format!("{:<32} {text}", fault.name);
        eprintln!("{row}");
        table += &row;
        table.push('\n');
    }
    println!("fault                            caught by{:>51}     time   with building", "");
    print!("{table}");
    if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Called by cargo with the compiler and its arguments: compiles with the fault built in.
fn compile(arguments: &[String]) -> ExitCode {
    let Some((compiler, rest)) = arguments.split_first() else { return ExitCode::FAILURE };
    let place = after(rest, "--crate-name").filter(|name| PLACES.contains(name));
    let mut command = Command::new(compiler);
    command.args(rest);
    let fault = place.map(|place| std::env::var(variable(place)).unwrap_or_default());
    if let Some(fault) = fault.as_ref().filter(|fault| !fault.is_empty()) {
        command.args(["--cfg", &format!("annals_plant=\"{fault}\"")]);
    }
    if !command.status().is_ok_and(|status| status.success()) {
        return ExitCode::FAILURE;
    }
    let noted = match (place, fault) {
        (Some(place), Some(fault)) => note(rest, place, &fault),
        _ => Ok(()),
    };
    match noted {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the list of what {place:?} depends on: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The argument behind `name`.
fn after<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1).map(String::as_str)
}

/// Adds to the compiler's list of what the crate depends on, which cargo reads, the variable with the fault: another value
/// of it makes cargo compile the crate anew.
fn note(arguments: &[String], place: &str, fault: &str) -> std::io::Result<()> {
    let extra = arguments.iter().find_map(|argument| argument.strip_prefix("extra-filename=")).unwrap_or_default();
    let Some(folder) = after(arguments, "--out-dir") else { return Ok(()) };
    let list = Path::new(folder).join(format!("{place}{extra}.d"));
    let mut list = std::fs::OpenOptions::new().append(true).open(list)?;
    writeln!(list, "\n# env-dep:{}={fault}", variable(place))
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

    fn cargo(&self, fault: Option<&Fault>, arguments: &[&str]) -> Result<Output, String> {
        let wrapper = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut cargo = Command::new("cargo");
        cargo.current_dir(&self.workspace).args(arguments).env("CARGO_TARGET_DIR", &self.build);
        cargo.env("RUSTC_WORKSPACE_WRAPPER", wrapper).env("RUST_BACKTRACE", "0");
        // What differs from one fault to the next is a line or two.
        cargo.env("CARGO_INCREMENTAL", "1").env("CARGO_PROFILE_TEST_DEBUG", "0").env("CARGO_PROFILE_DEV_DEBUG", "0");
        for place in PLACES {
            let here = fault.filter(|fault| fault.place == place).map_or("", |fault| fault.name);
            cargo.env(variable(place), here);
        }
        cargo.output().map_err(|error| format!("cargo: {error}"))
    }

    /// The first test that fails with the fault built in, and how long it ran.
    fn catch(&self, fault: Option<&Fault>) -> Result<Option<(String, Duration)>, String> {
        let expected = fault.map(|fault| fault.expected);
        for ((package, file), function) in expected.into_iter().chain(TESTS.map(|test| (test, ANY))) {
            let test = ["test", "--quiet", "-p", package, "--test", file];
            // Built apart from the run, so that what does not compile is not taken for caught.
            let built = self.cargo(fault, &[&test[..], &["--no-run"]].concat())?;
            if !built.status.success() {
                return Err(format!("{file} does not compile\n{}", String::from_utf8_lossy(&built.stderr)));
            }
            let begun = Instant::now();
            let run = self.cargo(fault, &[&test[..], &["--", function]].concat())?;
            if !run.status.success() {
                let output = String::from_utf8_lossy(&run.stdout).into_owned();
                return Ok(Some((format!("{file}: {}", first_failure(&output)), begun.elapsed())));
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
