//! The JSON Lines form that `import` reads and `export` writes: one event a line.
//!
//! ```text
//! {"stream":text,"type":text,"id":uuid,"time":RFC 3339 in UTC or null,"data":object,"meta":object,"batch":number}
//! ```
//!
//! The text of `data` is the payload and the text of `meta` the metadata, byte for byte. What this form alone could not
//! hold goes into fields of its own, present only where needed: `data_base64` and `meta_base64` in place of `data` and
//! `meta` (bytes that are no JSON object on one line), `tags`, `content_type`, `schema_version`, `correlation` and
//! `causation` (or `correlation_base64`, `causation_base64`). Any other field is refused: it would be lost in silence.

mod entry;
mod print;
#[cfg(test)]
mod round_trip;
mod source;
mod time;

pub(crate) use entry::Entry;
pub(crate) use print::{Fields, push_text, write_line};
pub(crate) use source::Source;
pub(crate) use time::{parse_time, print_time, print_wall_clock};
