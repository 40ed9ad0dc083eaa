//! What a verb can fail with: a line that says what, a line that says what to do, and the exit code.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use annals::Error;

/// Exit codes, as `annals --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The reader of standard output went away: no failure of ours, nothing is printed.
    ReaderGone = 0,
    Operation = 1,
    Usage = 2,
    Damage = 3,
    Conflict = 4,
    Locked = 5,
    NotFound = 6,
    Interrupted = 130,
}

/// A failed verb.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    message: String,
    hint: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into() }
    }

    /// Writing to standard output failed.
    pub(crate) fn output(error: io::Error) -> Self {
        let code = if error.kind() == io::ErrorKind::BrokenPipe { Code::ReaderGone } else { Code::Operation };
        Self::new(
            code,
            format!("writing to standard output: {error}"),
            "make room where the output goes, or pipe it on",
        )
    }

    /// A file other than the store's could not be read.
    pub(crate) fn input(path: &Path, error: &io::Error) -> Self {
        let (code, hint) = match error.kind() {
            io::ErrorKind::NotFound => (Code::NotFound, "check the path; - reads standard input"),
            _ => (Code::Operation, "check the file and its permissions; - reads standard input"),
        };
        Self::new(code, format!("reading {}: {error}", path.display()), hint)
    }

    /// Puts `place` in front of what is said.
    pub(crate) fn at(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Adds what was achieved before.
    pub(crate) fn after(mut self, done: &str) -> Self {
        self.message = format!("{} ({done})", self.message);
        self
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Says it on standard error and gives the code to end with.
    pub(crate) fn report(&self) -> ExitCode {
        if self.code != Code::ReaderGone {
            let label = if self.code == Code::Interrupted { "interrupted" } else { "error" };
            eprintln!("{label}: {}\nhint: {}", on_one_line(&self.message), on_one_line(&self.hint));
        }
        ExitCode::from(self.code as u8)
    }
}

pub(crate) fn on_one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, hint) = match &error {
            Error::Conflict(_) => (Code::Conflict, "read the stream again and decide anew"),
            Error::DuplicateId { .. } => (Code::Conflict, "see what is stored with `annals get STORE ID`"),
            Error::PartialDuplicate { .. } => (Code::Conflict, "append only what is missing"),
            Error::RemovalForbidden => {
                (Code::Operation, "copy what is to be kept into another store with `annals export`")
            }
            Error::Locked { .. } => {
                (Code::Locked, "wait for that process to close the store; reading verbs work beside it")
            }
            Error::Corrupt(_) => (Code::Damage, "run `annals verify STORE` to see all damage"),
            Error::Unsupported { .. } => (Code::Operation, "use the version of annals that wrote it, or a newer one"),
            Error::NotAStore { .. } => (Code::Operation, "give the directory that `annals import` or a program made"),
            Error::Occupied { .. } => (Code::Operation, "give a directory that does not exist yet"),
            Error::NoSpace { .. } => (Code::Operation, "make room or raise the limit, then run the same command again"),
            Error::ReadOnly { .. } => {
                (Code::Operation, "check the permissions of the directory and of the disk's mount")
            }
            Error::OutcomeUnknown { .. } | Error::Poisoned { .. } => {
                (Code::Operation, "check the disk, then run the same command again: what is stored is found by its id")
            }
            Error::Diverged { .. } | Error::Fenced { .. } | Error::ConsumerBusy { .. } => {
                (Code::Conflict, "see where the consumers stand with `annals consumers STORE`")
            }
            Error::AheadOfLog { .. } => (Code::Operation, "see the last position with `annals info STORE`"),
            Error::Invalid(_) | Error::Empty => (Code::Operation, "see the store's limits with `annals info STORE`"),
            Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                (Code::NotFound, "check the path of the store")
            }
            _ => (Code::Operation, "check the path, its permissions and the disk"),
        };
        Self::new(code, error.to_string(), hint)
    }
}
