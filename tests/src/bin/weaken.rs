//! Is each ordering of the publish protocol needed? Weakens them one by one and runs the models of the protocol until one
//! fails; an ordering that no model misses is an error, and so is a model that fails without a cause.
//!
//! ```text
//! cargo run -p annals-tests --bin weaken                   # all of them, in a build directory of their own
//! cargo run -p annals-tests --bin weaken written-shown     # this one
//! ```
//!
//! The names are read from the source, so that none is forgotten.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::Instant;

fn main() -> ExitCode {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned();
    let known = names(&workspace.join("engine/src/publish"));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = arguments.iter().find(|name| !known.contains(*name)) {
        eprintln!("no ordering is named {unknown}; there are {known:?}");
        return ExitCode::FAILURE;
    }
    let chosen: Vec<String> = if arguments.is_empty() { known.into_iter().collect() } else { arguments };
    let ground = Ground::new(workspace);
    println!("{:<24} {:<72} {:>7}", "weakened", "missed by", "time");
    let mut is_fine = true;
    for name in std::iter::once(None).chain(chosen.iter().map(Some)) {
        let begun = Instant::now();
        let verdict = ground.run(name.map(String::as_str));
        let (text, is_right) = match (&verdict, name) {
            (Ok(None), None) => ("all models hold".to_owned(), true),
            (Ok(Some(model)), Some(_)) => (model.clone(), true),
            (Ok(None), Some(_)) => ("NOBODY".to_owned(), false),
            (Ok(Some(model)), None) => (format!("FAILS WITHOUT A CAUSE: {model}"), false),
            (Err(text), _) => (format!("could not be tried: {text}"), false),
        };
        is_fine &= is_right;
        println!("{:<24} {text:<72} {:>5.1} s", name.map_or("nothing", String::as_str), begun.elapsed().as_secs_f64());
    }
    if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The names of all orderings and fences in the files of the room.
fn names(room: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in std::fs::read_dir(room).expect("the room's files") {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("its text");
        for opening in ["named_ordering!(\"", "named_fence!(\""] {
            let found = text.split(opening).skip(1).filter_map(|rest| rest.split('"').next());
            names.extend(found.map(str::to_owned));
        }
    }
    names
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

    /// The first model that fails.
    fn run(&self, weakened: Option<&str>) -> Result<Option<String>, String> {
        let built = self.cargo(weakened, &["test", "--release", "--quiet", "--no-run", "-p", "annals-models"])?;
        if !built.status.success() {
            return Err(String::from_utf8_lossy(&built.stderr).into_owned());
        }
        let run = self.cargo(weakened, &["test", "--release", "--quiet", "-p", "annals-models"])?;
        if run.status.success() {
            return Ok(None);
        }
        let output = String::from_utf8_lossy(&run.stdout).into_owned();
        let is_name = |line: &&str| line.starts_with("    ") && !line.trim().is_empty();
        let failed = output.rsplit("failures:").next().and_then(|end| end.lines().find(is_name));
        Ok(Some(failed.map_or("a model that breaks off", str::trim).to_owned()))
    }
}
