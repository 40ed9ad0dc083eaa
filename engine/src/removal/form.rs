//! Removals as a batch carries them, and what can be judged of them without the store.

use annals_format::record::{Control, Policy, Sweep, SweptPart, control_len};

use crate::error::Error;
use crate::input::{Input, check_name};
use crate::name::{self, NAME_LEN_MAX};
use crate::{Result, Revision};

/// What a batch removes, or says about keeping.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Removal<'a> {
    TruncateBefore {
        stream: &'a str,
        revision: Revision,
    },
    Delete(&'a str),
    Tombstone(&'a str),
    /// `None`: limits that the scope cannot have.
    Retain(Option<Policy<'a>>),
    Sweep(&'a [SweptPart<'a>]),
    ForgetIds(&'a str),
    ForgetStream(&'a str),
}

impl<'a> Removal<'a> {
    /// The one stream that it is about.
    pub(crate) fn stream(&self) -> Option<&'a str> {
        match self {
            Self::TruncateBefore { stream, .. }
            | Self::Delete(stream)
            | Self::Tombstone(stream)
            | Self::ForgetIds(stream)
            | Self::ForgetStream(stream) => Some(stream),
            Self::Retain(_) | Self::Sweep(_) => None,
        }
    }

    /// Whether nothing can be written to the stream in the same batch.
    fn ends_stream(&self) -> bool {
        matches!(self, Self::Tombstone(_) | Self::ForgetStream(_))
    }

    /// The most bytes that its record takes.
    pub(crate) fn len_max(&self) -> u64 {
        const PLAIN_MAX: usize = 64 + NAME_LEN_MAX;
        let len = match self {
            Self::Sweep(parts) => control_len(&Control::Sweep(Sweep::of(parts))),
            _ => PLAIN_MAX.next_multiple_of(8),
        };
        len as u64
    }
}

/// Names, limits, and that the batch does not contradict itself.
#[cold]
pub(crate) fn check<'a>(input: &(impl Input<'a> + ?Sized)) -> Result<()> {
    let removals = input.removals();
    for (index, removal) in removals.iter().enumerate() {
        match removal {
            Removal::Retain(None) => {
                return Err(Error::invalid("a limit of 0, or one that this scope cannot have", None));
            }
            Removal::Retain(Some(policy)) => {
                let text = policy.scope.name();
                let is_empty_prefix =
                    text.is_empty() && !matches!(policy.scope, annals_format::record::Scope::Stream(_));
                if !is_empty_prefix && !name::is_well_formed(text.as_bytes()) {
                    return Err(Error::invalid("a policy for names that no stream can have", None));
                }
            }
            _ => {}
        }
        let Some(stream) = removal.stream() else { continue };
        check_name("the stream's name", stream, index)?;
        if removals[..index].iter().any(|other| other.stream() == Some(stream)) {
            return Err(Error::invalid("a stream is removed from twice in a batch", None));
        }
        if removal.ends_stream() && (0..input.len()).any(|event| input.event(event).0 == stream) {
            return Err(Error::invalid("a batch ends a stream and writes to it", None));
        }
    }
    Ok(())
}
