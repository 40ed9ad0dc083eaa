//! The numbers of an event: where it lies in the store, where in its stream, and who it is.

use std::fmt;
use std::num::NonZeroU64;

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(NonZeroU64);

        impl $name {
            /// The first one, 1.
            pub const FIRST: Self = Self(NonZeroU64::MIN);

            /// `None` for 0: numbering starts at 1.
            #[inline]
            pub const fn new(value: u64) -> Option<Self> {
                match NonZeroU64::new(value) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }

            /// The plain number, at least 1.
            #[inline]
            pub const fn get(self) -> u64 {
                self.0.get()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl From<$name> for u64 {
            fn from(value: $name) -> u64 {
                value.get()
            }
        }

        impl TryFrom<u64> for $name {
            type Error = std::num::TryFromIntError;
            fn try_from(value: u64) -> Result<Self, Self::Error> {
                NonZeroU64::try_from(value).map(Self)
            }
        }
    };
}

numbered! {
    /// Place of an event in the store's one total order. Starts at 1, strictly increases, is never renumbered.
    Position
}

numbered! {
    /// Place of an event in its stream: the number of events ever appended to that stream, this one included.
    Revision
}

/// Identity of an event, 128 bits: the caller's own, or a generated UUID version 7.
///
/// Shown and parsed in the usual UUID form.
///
/// ```
/// let id: annals::EventId = "f0a28c59-985b-5ce7-8fe3-9ef333c22156".parse().unwrap();
/// assert_eq!(id.to_string(), "f0a28c59-985b-5ce7-8fe3-9ef333c22156");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId([u8; 16]);

impl EventId {
    /// From sixteen bytes, any.
    #[inline]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The sixteen bytes.
    #[inline]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl From<[u8; 16]> for EventId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl From<u128> for EventId {
    fn from(value: u128) -> Self {
        Self(value.to_be_bytes())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({self})")
    }
}

impl std::str::FromStr for EventId {
    type Err = InvalidEventId;
    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        uuid::Uuid::try_parse(text).map(|id| Self(id.into_bytes())).map_err(|_| InvalidEventId)
    }
}

/// The text is not a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID")]
pub struct InvalidEventId;
