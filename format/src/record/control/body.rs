//! Bodies of the known kinds, read and verified. An offset counts from the beginning of the body.

use super::{
    Control, ControlFrame, DELETE, FORGET_IDS, FORGET_STREAM, Forgotten, Policy, RETAIN, SWEEP, Scope, StreamCut,
    Sweep, TOMBSTONE, TRUNCATE,
};
use crate::Fault;
use crate::field::{check_reserved, number_at, numbered_at, u8_at, u16_at, u64_at};
use crate::name::is_well_formed;

/// Where the names begin.
pub(super) const CUT_NAME_AT: usize = 16;
pub(super) const POLICY_NAME_AT: usize = 32;

pub(super) const SCOPE_STREAM: u8 = 1;
pub(super) const SCOPE_PREFIX: u8 = 2;
pub(super) const SCOPE_STORE: u8 = 3;

pub(super) fn read<'a>(frame: &ControlFrame<'a>) -> Result<Control<'a>, Fault> {
    let head = Head { frame: *frame, body: frame.body() };
    match u16_at(frame.bytes(), 12) {
        TRUNCATE => head.cut().and_then(|cut| {
            if cut.first > cut.upto {
                Err(number("last hidden revision", cut.upto))
            } else {
                Ok(Control::Truncate(cut))
            }
        }),
        DELETE => head.cut_to_the_end().map(Control::Delete),
        TOMBSTONE => head.cut_to_the_end().map(Control::Tombstone),
        RETAIN => head.policy().map(Control::Retain),
        SWEEP => {
            head.check_revision_is_zero()?;
            head.check_name_len_is_zero()?;
            Sweep::read(head.body, frame.position()).map(Control::Sweep)
        }
        FORGET_IDS => head.forgotten().map(Control::ForgetIds),
        FORGET_STREAM => head.forgotten().map(Control::ForgetStream),
        kind => Err(Fault::Unsupported { what: "control kind", value: kind.into() }),
    }
}

fn number(what: &'static str, value: u64) -> Fault {
    Fault::Count { what, value }
}

/// `text` as a name, or as the beginning of one, which may be empty.
pub(super) fn name(text: &[u8], may_be_empty: bool) -> Result<&str, Fault> {
    let fault = Fault::Name { what: "name in a control record" };
    if !(is_well_formed(text) || (may_be_empty && text.is_empty())) {
        return Err(fault);
    }
    std::str::from_utf8(text).map_err(|_| fault)
}

struct Head<'a> {
    frame: ControlFrame<'a>,
    body: &'a [u8],
}

impl<'a> Head<'a> {
    fn check_type_len_is_zero(&self) -> Result<(), Fault> {
        check_reserved(self.frame.bytes(), 15, 16, "type name length of a control record")
    }

    fn check_name_len_is_zero(&self) -> Result<(), Fault> {
        check_reserved(self.frame.bytes(), 14, 16, "name lengths of a control record")
    }

    fn check_revision_is_zero(&self) -> Result<(), Fault> {
        check_reserved(self.frame.bytes(), 16, 24, "revision of a control record")
    }

    /// The name that fills the body from `at` on.
    fn name(&self, at: usize, may_be_empty: bool) -> Result<&'a str, Fault> {
        self.check_type_len_is_zero()?;
        let len = usize::from(u8_at(self.frame.bytes(), 14));
        if self.body.len() != at + len {
            return Err(Fault::Length { what: "length of a control record's body", value: self.body.len() as u64 });
        }
        name(&self.body[at..], may_be_empty)
    }

    fn cut(&self) -> Result<StreamCut<'a>, Fault> {
        let stream = self.name(CUT_NAME_AT, false)?;
        let last = numbered_at(self.frame.bytes(), 16, "last revision of the stream")?;
        let first = numbered_at(self.body, 0, "first hidden revision")?;
        let upto = number_at(self.body, 8, "last hidden revision")?;
        if upto > last || first - 1 > upto {
            return Err(number("last hidden revision", upto));
        }
        Ok(StreamCut { stream, first, upto, last })
    }

    fn cut_to_the_end(&self) -> Result<StreamCut<'a>, Fault> {
        let cut = self.cut()?;
        if cut.upto == cut.last { Ok(cut) } else { Err(number("last hidden revision", cut.upto)) }
    }

    fn policy(&self) -> Result<Policy<'a>, Fault> {
        self.check_revision_is_zero()?;
        let kind = u8_at(self.body, 0);
        let name = self.name(POLICY_NAME_AT, kind != SCOPE_STREAM)?;
        check_reserved(self.body, 1, 8, "reserved bytes of a policy")?;
        let scope = match kind {
            SCOPE_STREAM => Scope::Stream(name),
            SCOPE_PREFIX => Scope::Prefix(name),
            SCOPE_STORE if name.is_empty() => Scope::Store,
            SCOPE_STORE => {
                return Err(Fault::Length { what: "name of a policy of the store", value: name.len() as u64 });
            }
            _ => return Err(Fault::Unsupported { what: "scope of a policy", value: kind.into() }),
        };
        let limit = |at: usize| Some(u64_at(self.body, at)).filter(|limit| *limit > 0);
        let policy = Policy { scope, max_age: limit(8), max_count: limit(16), max_bytes: limit(24) };
        if !policy.is_allowed() {
            return Err(Fault::Structure { what: "limits of a policy" });
        }
        Ok(policy)
    }

    fn forgotten(&self) -> Result<Forgotten<'a>, Fault> {
        let stream = self.name(0, false)?;
        let upto = numbered_at(self.frame.bytes(), 16, "last forgotten revision")?;
        Ok(Forgotten { stream, upto })
    }
}

impl Policy<'_> {
    /// Whether the limits are those that the scope can have: bytes are counted of the store alone, age and number of
    /// streams alone.
    pub fn is_allowed(&self) -> bool {
        match self.scope {
            Scope::Store => self.max_age.is_none() && self.max_count.is_none(),
            Scope::Stream(_) | Scope::Prefix(_) => self.max_bytes.is_none(),
        }
    }

    /// Whether it sets no limit: it withdraws the one before.
    pub fn is_withdrawn(&self) -> bool {
        self.max_age.is_none() && self.max_count.is_none() && self.max_bytes.is_none()
    }
}
