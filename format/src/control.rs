//! The control page (`CONTROL`): what a writer tells followers in other processes. A hint, never synced, never trusted.

use crate::Fault;
use crate::field::{array_at, check_reserved, is_zero, number_at, put};
use crate::header::{Header, Purpose, Reach};

/// Length of the file.
pub const CONTROL_LEN: usize = 4096;
/// Length of the header at its beginning.
pub const CONTROL_HEADER_LEN: usize = 128;
/// Offset of the turn, a u32: one more at each announcement. Followers sleep until it is another one.
pub const TURN_OFFSET: usize = 128;
/// Offset of the durable head, a u64.
pub const DURABLE_OFFSET: usize = 256;
/// Offset of the state, a u64: [`OPEN`] or [`ENDED`].
pub const STATE_OFFSET: usize = 384;
/// State while a writer announces, or after it was killed at that.
pub const OPEN: u64 = 1;
/// State after the writer has closed the store, or has stopped after a failure: it announces no more.
pub const ENDED: u64 = 0;

const HEADER: Header =
    Header { what: "control page", magic: *b"ANNALCTL", len: CONTROL_HEADER_LEN, reach: Reach::Header, known_write: 0 };

/// The header: whose page this is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlHeader {
    /// Id of the store.
    pub store: [u8; 16],
    /// Incarnation of the opening that announces here.
    pub incarnation: [u8; 16],
    /// Session of that opening: the ring's.
    pub session: u64,
}

impl ControlHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; CONTROL_HEADER_LEN] {
        let mut bytes = [0; CONTROL_HEADER_LEN];
        HEADER.begin(&mut bytes);
        put(&mut bytes, 32, self.store);
        put(&mut bytes, 48, self.incarnation);
        put(&mut bytes, 64, self.session.to_le_bytes());
        HEADER.finish(&mut bytes, 0);
        bytes
    }

    /// Reads and verifies the header, for a writer. `None` if all of it is zero.
    ///
    /// # Errors
    /// Any [`Fault`] of a header.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        Self::decode_for(bytes, Purpose::Write)
    }

    /// As [`ControlHeader::decode`], for `purpose`.
    ///
    /// # Errors
    /// As there.
    pub fn decode_for(bytes: &[u8], purpose: Purpose) -> Result<Option<Self>, Fault> {
        if bytes.get(..CONTROL_HEADER_LEN).is_some_and(is_zero) {
            return Ok(None);
        }
        HEADER.check(bytes, 0, purpose)?;
        check_reserved(bytes, 72, CONTROL_HEADER_LEN, "reserved bytes of the control page")?;
        Ok(Some(Self {
            store: array_at(bytes, 32),
            incarnation: array_at(bytes, 48),
            session: number_at(bytes, 64, "session of the control page")?,
        }))
    }
}
