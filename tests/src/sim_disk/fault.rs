//! How an operation can fail.

use std::fmt;
use std::io;

use super::Call;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// Any operation: an input/output error, nothing done. A sync fails as by [`FaultKind::SyncFail`].
    Eio,
    /// `create` and `write_at`: no space, nothing done.
    Enospc,
    /// `write_at`: the first half is written, then the system stops short.
    ShortWrite,
    /// `sync` and `sync_dir`: an input/output error. What was written to the file is given up: the live content
    /// keeps it, the durable one lacks it, and the next sync succeeds all the same. Names stay unsynced.
    SyncFail,
    /// `list`, `open`, `read_at` and `map`: an input/output error.
    ReadEio,
    /// `write_at`: an input/output error after every second sector was written.
    TornWriteHalf,
}

/// How often it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// At the one operation.
    Once,
    /// At that and every later one that can fail so.
    Forever,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) step: u64,
    pub(super) kind: FaultKind,
    pub(super) repeat: Repeat,
}

impl Fault {
    pub(super) fn bites(&self, step: u64, call: Call) -> bool {
        let now = match self.repeat {
            Repeat::Once => step == self.step,
            Repeat::Forever => step >= self.step,
        };
        now && self.kind.can_hit(call)
    }
}

impl FaultKind {
    fn can_hit(self, call: Call) -> bool {
        match self {
            Self::Eio => true,
            Self::Enospc => matches!(call, Call::Create | Call::Write),
            Self::ShortWrite | Self::TornWriteHalf => call == Call::Write,
            Self::SyncFail => matches!(call, Call::Sync | Call::SyncDir),
            Self::ReadEio => matches!(call, Call::List | Call::Open | Call::Read | Call::Map),
        }
    }

    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Enospc => io::Error::from_raw_os_error(ENOSPC),
            Self::ShortWrite => io::Error::new(io::ErrorKind::WriteZero, "a short write"),
            _ => io::Error::from_raw_os_error(EIO),
        }
    }
}

/// How an operation is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Go,
    /// The power is cut meanwhile: nothing it does is synced.
    Cut,
    Fail(FaultKind),
}

impl Verdict {
    pub(super) fn is_fault(self) -> bool {
        matches!(self, Self::Fail(_))
    }

    /// The error of a fault.
    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Fail(kind) => kind.error(),
            Self::Go | Self::Cut => power_off(),
        }
    }
}

#[derive(Debug)]
struct PowerOff;

impl fmt::Display for PowerOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the simulated machine is off")
    }
}

impl std::error::Error for PowerOff {}

pub(super) fn power_off() -> io::Error {
    io::Error::other(PowerOff)
}

/// Whether an operation failed because the power was cut.
#[must_use]
pub fn is_power_off(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<PowerOff>())
}
