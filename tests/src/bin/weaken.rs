//! Is each ordering of the publish protocol needed? Weakens them one by one and runs the models of the protocol until one
//! fails; an ordering that no model misses is an error, and so is a model that fails without a cause.
//!
//! ```text
//! cargo run -p annals-tests --bin weaken                   # all of them, in a build directory of their own
//! cargo run -p annals-tests --bin weaken written-shown     # this one; `nothing`: do all models hold as it is
//! ```
//!
//! The names are read from the source, so that none is forgotten.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Instant;

/// The name of the run in which nothing is weakened.
const NOTHING: &str = "nothing";

fn main() -> ExitCode {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned();
    let mut known = names(&workspace.join("engine/src/publish"));
    known.insert(0, NOTHING.to_owned());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = arguments.iter().find(|name| !known.contains(*name)) {
        eprintln!("no ordering is named {unknown}; there are {known:?}");
        return ExitCode::FAILURE;
    }
    let chosen = if arguments.is_empty() { known } else { arguments };
    let ground = Ground::new(workspace);
    println!("{:<24} {:<72} {:>7}", "weakened", "missed by", "time");
    let mut is_fine = true;
    for name in &chosen {
        let begun = Instant::now();
        let weakened = (name != NOTHING).then_some(name.as_str());
        let verdict = ground.run(weakened);
        let (text, is_right) = match (&verdict, weakened) {
            (Ok(Verdict::Hold(_)), None) => ("all models hold".to_owned(), true),
            (Ok(Verdict::Fails(model)), Some(_)) => (model.clone(), true),
            (Ok(Verdict::Hold(_)), Some(_)) => ("NOBODY".to_owned(), false),
            (Ok(Verdict::Fails(model)), None) => (format!("FAILS WITHOUT A CAUSE: {model}"), false),
            (Err(text), _) => (format!("could not be tried: {text}"), false),
        };
        is_fine &= is_right;
        println!("{name:<24} {text:<72} {:>5.1} s", begun.elapsed().as_secs_f64());
        if let (Ok(Verdict::Hold(counts)), None) = (&verdict, weakened) {
            counts.iter().for_each(|count| println!("    {count}"));
        }
    }
    if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The names of all orderings and fences in the files of the room.
fn names(room: &Path) -> Vec<String> {
    let mut names = BTreeSet::new();
    for file in std::fs::read_dir(room).expect("the room's files") {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("its text");
        for opening in ["named_ordering!(\"", "named_fence!(\""] {
            let found = text.split(opening).skip(1).filter_map(|rest| rest.split('"').next());
            names.extend(found.map(str::to_owned));
        }
    }
    names.into_iter().collect()
}

/// Where the models are built, apart from all else.
struct Ground {
    workspace: PathBuf,
    build: PathBuf,
}

impl Ground {
    fn new(workspace: PathBuf) -> Self {
        let ordinary = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
        Self { workspace, build: ordinary.join("weakened") }
    }

    fn cargo(&self, weakened: Option<&str>, arguments: &[&str]) -> Result<Output, String> {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(&self.workspace).args(arguments).env("CARGO_TARGET_DIR", &self.build);
        cargo.env("RUST_BACKTRACE", "0").env_remove("ANNALS_WEAKEN");
        if let Some(name) = weakened {
            cargo.env("ANNALS_WEAKEN", name);
        }
        cargo.output().map_err(|error| format!("cargo: {error}"))
    }

    /// The first model that fails; what the models counted, if all hold.
    fn run(&self, weakened: Option<&str>) -> Result<Verdict, String> {
        let built = self.cargo(weakened, &["test", "--release", "--no-run", "-p", "annals-models"])?;
        let said = String::from_utf8_lossy(&built.stderr);
        let program = said.rsplit("Executable").next().and_then(|end| end.split(['(', ')']).nth(1));
        let (true, Some(program)) = (built.status.success(), program) else { return Err(said.into_owned()) };
        let mut models = Command::new(self.workspace.join(program));
        models.args(["--nocapture", "--test-threads", "1"]).env("RUST_BACKTRACE", "0");
        models.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut models = models.spawn().map_err(|error| format!("{program}: {error}"))?;
        let verdict = judge(models.stdout.take().expect("piped"));
        if let Ok(Verdict::Fails(_)) = verdict {
            // The others need not be gone through.
            let _ = models.kill();
        }
        let _ = models.wait();
        verdict
    }
}

/// What came of the models.
enum Verdict {
    /// All hold: a line for each, with the count of its executions.
    Hold(Vec<String>),
    /// The first that does not.
    Fails(String),
}

/// Reads what the models print as they go, up to the first that fails.
fn judge(output: impl Read) -> Result<Verdict, String> {
    let (mut model, mut counts) = (String::new(), Vec::new());
    for line in BufReader::new(output).lines() {
        let line = line.map_err(|error| format!("the models: {error}"))?;
        let line = match line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
            Some((name, rest)) => {
                name.clone_into(&mut model);
                rest.to_owned()
            }
            None => line,
        };
        if line.contains(" executions, ") {
            counts.push(line);
        } else if line == "FAILED" {
            return Ok(Verdict::Fails(model));
        } else if line.starts_with("test result: ok") {
            return Ok(Verdict::Hold(counts));
        }
    }
    Ok(Verdict::Fails(format!("{model}, which breaks off")))
}
