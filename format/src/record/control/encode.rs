//! Control records into bytes.

use super::body::{CUT_NAME_AT, POLICY_NAME_AT, SCOPE_PREFIX, SCOPE_STORE, SCOPE_STREAM};
use super::sweep::PARTS_AT;
use super::{
    Control, DELETE, FORGET_IDS, FORGET_STREAM, Policy, RETAIN, SWEEP, Scope, StreamCut, Sweep, SweptPart, TOMBSTONE,
    TRUNCATE,
};
use crate::field::put;
use crate::name::NAME_LEN_MAX;
use crate::record::{FRAME_ALIGNMENT, KIND_CONTROL, RECORD_HEADER_LEN, padded};

/// Length of the control record's frame in the log, padding included.
pub fn control_len(control: &Control<'_>) -> usize {
    padded(plain_len(control))
}

fn plain_len(control: &Control<'_>) -> usize {
    RECORD_HEADER_LEN
        + match control {
            Control::Truncate(cut) | Control::Delete(cut) | Control::Tombstone(cut) => CUT_NAME_AT + cut.stream.len(),
            Control::Retain(policy) => POLICY_NAME_AT + policy.scope.name().len(),
            Control::Sweep(sweep) => PARTS_AT + sweep.parts().map(|part| part.encoded_len()).sum::<usize>(),
            Control::ForgetIds(forgotten) | Control::ForgetStream(forgotten) => forgotten.stream.len(),
        }
}

impl<'a> Scope<'a> {
    /// The name or prefix; empty for the store.
    pub fn name(&self) -> &'a str {
        match self {
            Self::Stream(name) | Self::Prefix(name) => name,
            Self::Store => "",
        }
    }
}

/// Appends the frame to `buffer`, its checksum still zero.
///
/// # Panics
/// If a name is longer than 255 bytes, or the record than 4 GiB.
pub(crate) fn encode_control(buffer: &mut Vec<u8>, control: &Control<'_>) {
    let len = plain_len(control);
    let (kind, name, revision) = match control {
        Control::Truncate(cut) => (TRUNCATE, cut.stream, cut.last),
        Control::Delete(cut) => (DELETE, cut.stream, cut.last),
        Control::Tombstone(cut) => (TOMBSTONE, cut.stream, cut.last),
        Control::Retain(policy) => (RETAIN, policy.scope.name(), 0),
        Control::Sweep(_) => (SWEEP, "", 0),
        Control::ForgetIds(forgotten) => (FORGET_IDS, forgotten.stream, forgotten.upto),
        Control::ForgetStream(forgotten) => (FORGET_STREAM, forgotten.stream, forgotten.upto),
    };
    assert!(name.len() <= NAME_LEN_MAX && len <= (u32::MAX - 7) as usize, "names have at most 255 bytes");
    let mut head = [0; RECORD_HEADER_LEN];
    put(&mut head, 4, (len as u32).to_le_bytes());
    head[8] = KIND_CONTROL;
    put(&mut head, 12, kind.to_le_bytes());
    head[14] = name.len() as u8;
    put(&mut head, 16, revision.to_le_bytes());
    buffer.extend_from_slice(&head);
    match control {
        Control::Truncate(cut) | Control::Delete(cut) | Control::Tombstone(cut) => encode_cut(buffer, cut),
        Control::Retain(policy) => encode_policy(buffer, policy),
        Control::Sweep(sweep) => encode_sweep(buffer, sweep),
        Control::ForgetIds(_) | Control::ForgetStream(_) => {}
    }
    buffer.extend_from_slice(name.as_bytes());
    let padding = padded(len) - len;
    buffer.extend_from_slice(&[0; FRAME_ALIGNMENT - 1][..padding]);
}

fn encode_cut(buffer: &mut Vec<u8>, cut: &StreamCut<'_>) {
    buffer.extend_from_slice(&cut.first.to_le_bytes());
    buffer.extend_from_slice(&cut.upto.to_le_bytes());
}

fn encode_policy(buffer: &mut Vec<u8>, policy: &Policy<'_>) {
    let scope = match policy.scope {
        Scope::Stream(_) => SCOPE_STREAM,
        Scope::Prefix(_) => SCOPE_PREFIX,
        Scope::Store => SCOPE_STORE,
    };
    buffer.extend_from_slice(&[scope, 0, 0, 0, 0, 0, 0, 0]);
    for limit in [policy.max_age, policy.max_count, policy.max_bytes] {
        buffer.extend_from_slice(&limit.unwrap_or(0).to_le_bytes());
    }
}

fn encode_sweep(buffer: &mut Vec<u8>, sweep: &Sweep<'_>) {
    buffer.extend_from_slice(&(sweep.parts().count() as u32).to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    sweep.parts().for_each(|part: SweptPart<'_>| part.encode(buffer));
}
