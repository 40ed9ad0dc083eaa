//! Where the fields of the structures lie, and how they are shown.

use annals_format::record::RECORD_HEADER_LEN;

/// How the bytes of a field are shown.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Number,
    Signed,
    /// Checksums and flags.
    Hex,
    Bytes,
    Text,
    Zeros,
}

/// Longest stretch of a value that is shown.
const SHOWN: usize = 64;

impl Form {
    pub(super) fn text(self, bytes: &[u8]) -> String {
        let mut word = [0; 8];
        let len = bytes.len().min(8);
        word[..len].copy_from_slice(&bytes[..len]);
        let number = u64::from_le_bytes(word);
        match self {
            Self::Number => number.to_string(),
            Self::Signed => (number as i64).to_string(),
            Self::Hex => format!("{number:#0width$x}", width = 2 + 2 * bytes.len()),
            Self::Bytes => hex(bytes),
            Self::Zeros if bytes.iter().all(|byte| *byte == 0) => String::new(),
            Self::Zeros => hex(bytes),
            Self::Text => match std::str::from_utf8(bytes) {
                Ok(text) if text.chars().count() <= SHOWN => format!("{text:?}"),
                Ok(text) => format!("{:?}…", text.chars().take(SHOWN).collect::<String>()),
                Err(_) => hex(bytes),
            },
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text: String = bytes.iter().take(SHOWN / 2).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > SHOWN / 2 {
        text.push('…');
    }
    text
}

/// One field: its place in the structure.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) at: usize,
    pub(super) len: usize,
    pub(super) name: &'static str,
    pub(super) form: Form,
}

const fn row(at: usize, len: usize, name: &'static str, form: Form) -> Row {
    Row { at, len, name, form }
}

pub(super) const HEADER: &[Row] = &[
    row(0, 8, "magic", Form::Text),
    row(8, 4, "format version", Form::Number),
    row(12, 4, "header length", Form::Number),
    row(16, 4, "checksum", Form::Hex),
    row(20, 4, "flags: must understand to read", Form::Hex),
    row(24, 4, "flags: must understand to write", Form::Hex),
    row(28, 4, "flags: may ignore", Form::Hex),
    row(32, 4, "written by", Form::Hex),
    row(36, 1, "kind", Form::Number),
    row(37, 1, "checksum algorithm", Form::Number),
    row(38, 1, "compression", Form::Number),
    row(39, 1, "encryption", Form::Number),
    row(40, 16, "store id", Form::Bytes),
    row(56, 16, "incarnation", Form::Bytes),
    row(72, 8, "segment number", Form::Number),
    row(80, 8, "segment generation", Form::Number),
    row(88, 8, "manifest generation", Form::Number),
    row(96, 8, "segment length", Form::Number),
    row(104, 8, "base log offset", Form::Number),
    row(112, 8, "first position", Form::Number),
    row(120, 8, "segment before", Form::Number),
    row(128, 4, "final checksum of the segment before", Form::Hex),
    row(132, 4, "commit alignment", Form::Number),
    row(136, 4, "dictionary id", Form::Number),
    row(140, 4, "block length", Form::Number),
    row(144, 8, "key id", Form::Number),
    row(152, 8, "created at", Form::Number),
    row(160, 3936, "reserved", Form::Zeros),
];

pub(super) const BATCH: &[Row] = &[
    row(0, 4, "checksum", Form::Hex),
    row(4, 1, "kind", Form::Hex),
    row(5, 1, "flags: must understand to read", Form::Hex),
    row(6, 1, "flags: must understand to write", Form::Hex),
    row(7, 1, "flags: may ignore", Form::Hex),
    row(8, 4, "body length", Form::Number),
    row(12, 4, "record count", Form::Number),
    row(16, 4, "checksum of the records' checksums", Form::Hex),
    row(20, 4, "durable lag", Form::Number),
    row(24, 8, "first position", Form::Number),
    row(32, 8, "recorded_at", Form::Number),
];

pub(super) const END_MARK: &[Row] = &[
    row(0, 4, "checksum", Form::Hex),
    row(4, 1, "kind", Form::Hex),
    row(5, 3, "flags", Form::Hex),
    row(8, 4, "length", Form::Number),
    row(12, 4, "final checksum", Form::Hex),
    row(16, 1, "checksum algorithm", Form::Number),
    row(17, 1, "chain algorithm", Form::Number),
    row(18, 6, "reserved", Form::Zeros),
    row(24, 8, "first position", Form::Number),
    row(32, 8, "last position", Form::Number),
    row(40, 8, "recorded_at of the first batch", Form::Number),
    row(48, 8, "recorded_at of the last batch", Form::Number),
    row(56, 8, "number of batches", Form::Number),
    row(64, 8, "number of events", Form::Number),
    row(72, 8, "number of control records", Form::Number),
    row(80, 32, "chain head", Form::Zeros),
    row(112, 8, "next segment", Form::Number),
    row(120, 8, "reserved", Form::Zeros),
];

const RECORD: &[Row] = &[
    row(0, 4, "checksum", Form::Hex),
    row(4, 4, "length", Form::Number),
    row(8, 1, "kind", Form::Number),
    row(9, 1, "flags: must understand to read", Form::Hex),
    row(10, 1, "flags: must understand to write", Form::Hex),
    row(11, 1, "flags: may ignore", Form::Hex),
    row(12, 2, "fields", Form::Hex),
    row(14, 1, "stream name length", Form::Number),
    row(15, 1, "type name length", Form::Number),
    row(16, 8, "revision", Form::Number),
];

const KIND_EVENT: u8 = 1;
const KIND_CONTROL: u8 = 2;

/// The fields of one record frame. Behind the fixed part of a frame that is damaged no field can be told.
pub(super) fn of_record(frame: &[u8], is_whole: bool) -> Vec<Row> {
    let mut rows = RECORD.to_vec();
    let written = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]) as usize;
    let mut parts = Parts { frame, at: RECORD_HEADER_LEN, end: written.min(frame.len()), rows: &mut rows };
    if is_whole && frame[8] == KIND_EVENT {
        parts.event();
    } else if is_whole && frame[8] == KIND_CONTROL {
        parts.control();
    } else {
        parts.rest("body", Form::Bytes);
    }
    let end = parts.end;
    if end < frame.len() {
        rows.push(row(end, frame.len() - end, "padding", Form::Zeros));
    }
    rows
}

/// Walks along the parts of a record that verifies.
struct Parts<'a> {
    frame: &'a [u8],
    at: usize,
    end: usize,
    rows: &'a mut Vec<Row>,
}

impl Parts<'_> {
    fn part(&mut self, len: usize, name: &'static str, form: Form) {
        let len = len.min(self.end - self.at);
        self.rows.push(row(self.at, len, name, form));
        self.at += len;
    }

    fn rest(&mut self, name: &'static str, form: Form) {
        self.part(self.end - self.at, name, form);
    }

    /// A part with its length, of one or four bytes, in front.
    fn measured(&mut self, width: usize, length: &'static str, name: &'static str, form: Form) {
        let mut word = [0; 4];
        let field = &self.frame[self.at..(self.at + width).min(self.end)];
        word[..field.len()].copy_from_slice(field);
        self.part(width, length, Form::Number);
        self.part(u32::from_le_bytes(word) as usize, name, form);
    }

    fn control(&mut self) {
        match u16::from_le_bytes([self.frame[12], self.frame[13]]) {
            1..=3 => {
                self.part(8, "first hidden revision", Form::Number);
                self.part(8, "last hidden revision", Form::Number);
                self.rest("stream", Form::Text);
            }
            4 => {
                self.part(1, "scope", Form::Number);
                self.part(7, "reserved", Form::Zeros);
                self.part(8, "largest age", Form::Number);
                self.part(8, "largest number of events", Form::Number);
                self.part(8, "largest number of bytes", Form::Number);
                self.rest("name or prefix", Form::Text);
            }
            5 => {
                self.part(4, "number of parts", Form::Number);
                self.part(4, "reserved", Form::Zeros);
                while self.at < self.end {
                    let name_len = self.frame.get(self.at + 1).copied().unwrap_or(0);
                    self.part(1, "part: of stream or prefix", Form::Number);
                    self.part(1, "part: name length", Form::Number);
                    self.part(6, "part: reserved", Form::Zeros);
                    self.part(8, "part: first hidden", Form::Number);
                    self.part(8, "part: last hidden", Form::Number);
                    self.part(name_len.into(), "part: name or prefix", Form::Text);
                }
            }
            6 | 7 => self.rest("stream", Form::Text),
            _ => self.rest("body", Form::Bytes),
        }
    }

    fn event(&mut self) {
        let fields = u16::from_le_bytes([self.frame[12], self.frame[13]]);
        let has = |bit: u16| fields & bit != 0;
        self.part(16, "id", Form::Bytes);
        self.part(self.frame[14].into(), "stream", Form::Text);
        self.part(self.frame[15].into(), "type", Form::Text);
        if has(0x01) {
            let count = self.frame.get(self.at).copied().unwrap_or(0);
            self.part(1, "number of tags", Form::Number);
            for _ in 0..count {
                self.measured(1, "tag length", "tag", Form::Text);
            }
        }
        if has(0x02) {
            self.measured(4, "metadata length", "metadata", Form::Text);
        }
        if has(0x04) {
            self.part(8, "occurred at", Form::Signed);
            self.part(1, "occurred at: digits", Form::Number);
        }
        if has(0x08) {
            self.part(4, "schema version", Form::Number);
        }
        if has(0x10) {
            self.measured(1, "content type length", "content type", Form::Text);
        }
        if has(0x20) {
            self.measured(1, "correlation length", "correlation", Form::Text);
        }
        if has(0x40) {
            self.measured(1, "causation length", "causation", Form::Text);
        }
        self.rest("payload", Form::Text);
    }
}
