//! What the tests of the tool share: running it, the data sets, saying what was skipped.

#![allow(dead_code)] // each test binary uses its part

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sha2::{Digest, Sha256};

pub(crate) const ADVISORIES_SHA256: &str = "d79b9f40b4c622274bde35b94837be86ae116d40fe81b764127bc3a6fdaca9d3";
pub(crate) const ADVISORIES_EVENTS: u64 = 4_286;
pub(crate) const WEBHOOKS_SHA256: &str = "0600fa46d7205c02fa852ec585e3b00e203a15888e8a467cb10a14d00241bd6e";
pub(crate) const SCOOP_SHA256: &str = "83b2fb98d4a629c5929243faeb1bbf7660aff824d4904da4ced68a031037fc9f";

/// The built tool.
pub(crate) fn annals() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annals"));
    command.stdin(Stdio::null());
    command
}

/// The arguments' mixed kinds of text, as the system wants them.
#[macro_export]
macro_rules! args {
    ($($argument:expr),* $(,)?) => { [$(std::ffi::OsString::from($argument)),*] };
}

/// Runs to its end.
pub(crate) fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ran {
    Ran(annals().args(arguments).output().expect("the tool starts"))
}

/// Runs with `input` on its standard input.
pub(crate) fn run_with_input<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>, input: &[u8]) -> Ran {
    let mut command = annals();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the tool starts");
    // A tool that ends early does not read to the end.
    let _ = child.stdin.take().expect("piped").write_all(input);
    Ran(child.wait_with_output().expect("the tool ends"))
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ran(pub(crate) Output);

impl Ran {
    pub(crate) fn code(&self) -> Option<i32> {
        self.0.status.code()
    }

    pub(crate) fn stdout(&self) -> &str {
        std::str::from_utf8(&self.0.stdout).expect("UTF-8 on standard output")
    }

    pub(crate) fn stderr(&self) -> &str {
        std::str::from_utf8(&self.0.stderr).expect("UTF-8 on standard error")
    }

    /// It succeeded; gives what it printed.
    #[track_caller]
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.code(), Some(0), "{}", self.stderr());
        self.stdout()
    }

    /// It ended with `code`, said one line of error that holds `said`, and one of hint.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, said: &str) {
        assert_eq!(self.code(), Some(code), "{}{}", self.stdout(), self.stderr());
        let complaint = self.complaint();
        assert!(complaint[0].contains(said), "{said:?} is not in {complaint:?}");
    }

    /// The two lines of a failure; lines of progress and news may stand before them.
    #[track_caller]
    pub(crate) fn complaint(&self) -> [&str; 2] {
        let lines: Vec<&str> = self.stderr().lines().collect();
        let [.., error, hint] = lines[..] else { panic!("no error and hint: {lines:?}") };
        assert!(error.starts_with("error: ") || error.starts_with("interrupted: "), "{lines:?}");
        assert!(hint.starts_with("hint: ") && hint.len() > 12, "{lines:?}");
        [error, hint]
    }
}

/// The set in the repository.
pub(crate) fn advisories() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/advisories/advisories.jsonl.zst")
}

/// The lines of a set.
pub(crate) fn lines_of(path: &Path) -> Vec<u8> {
    let packed = std::fs::read(path).unwrap();
    zstd::decode_all(&packed[..]).unwrap()
}

/// A file of the larger sets, or `None` once it is said why not.
pub(crate) fn larger_set(name: &str) -> Option<PathBuf> {
    match std::env::var_os("ANNALS_DATA") {
        Some(dir) => Some(Path::new(&dir).join(name)),
        None => {
            skipped(&format!("{name}: ANNALS_DATA is not set"));
            None
        }
    }
}

/// Says, past the harness' capture, that a test did not run.
pub(crate) fn skipped(why: &str) {
    std::io::stdout().write_all(format!("SKIPPED: {why}\n").as_bytes()).unwrap();
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// `export` of the whole store.
#[track_caller]
pub(crate) fn exported(store: &Path) -> Vec<u8> {
    let ran = run(args!["export", store]);
    ran.ok();
    ran.0.stdout
}

/// Standard output of a `--json` verb that prints one document.
#[track_caller]
pub(crate) fn json(ran: &Ran) -> serde_json::Value {
    serde_json::from_str(ran.ok()).expect("one JSON document")
}

/// Standard output of a verb that prints a JSON object a line.
#[track_caller]
pub(crate) fn json_lines(ran: &Ran) -> Vec<serde_json::Value> {
    ran.ok().lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

/// A line of the import form.
pub(crate) fn line(stream: &str, data: &str) -> String {
    format!("{{\"stream\":\"{stream}\",\"type\":\"T\",\"data\":{data}}}\n")
}

/// A store of a few events, each an append of its own.
pub(crate) fn small_store(dir: &Path) -> PathBuf {
    let store = dir.join("store");
    let lines: String = (0..20).map(|n| line(&format!("order-{}", n % 4), &format!("{{\"n\":{n}}}"))).collect();
    run_with_input(args!["import", &store, "-"], lines.as_bytes()).ok();
    store
}

/// Files of a directory by the beginning of their names.
pub(crate) fn files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix)).collect()
}

/// Sends the signal of this name.
pub(crate) fn signal(name: &str, process: u32) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {process}")]).status().unwrap();
    assert!(sent.success());
}

/// Name and content of every file, to see that nothing changed.
pub(crate) fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

/// Runs the first block of commands of a guide in this directory; answers how many there are.
pub(crate) fn run_commands_of(guide: &str, directory: &Path) -> usize {
    let block = guide.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of commands");
    for line in block.lines() {
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some("annals"), "{line}");
        let ran = annals().current_dir(directory).args(words).output().unwrap();
        assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    block.lines().count()
}
