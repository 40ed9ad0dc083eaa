//! A moment in a store's history, as options give it: a position or a time.

use std::str::FromStr;

use annals::AsOf;
use jiff::Timestamp;

/// A position, or a time as in 2026-02-26T00:43:37Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) AsOf);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(position) = text.parse() {
            return Ok(Self(AsOf::Position(position)));
        }
        let at: Timestamp = text
            .parse()
            .map_err(|_| format!("{text:?} is neither a position nor an RFC 3339 time, as in 2026-02-26T00:43:37Z"))?;
        // Before 1970 nothing was recorded; after 2554 the clock has ended.
        let nanos = at.as_nanosecond().max(0);
        Ok(Self(AsOf::Time(u64::try_from(nanos).unwrap_or(u64::MAX))))
    }
}

/// The moment given, or now.
pub(crate) fn or_head(moment: Option<Moment>) -> AsOf {
    moment.map_or(AsOf::Head, |Moment(as_of)| as_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_times() {
        let read = |text: &str| text.parse::<Moment>().map(|Moment(as_of)| as_of);
        assert_eq!(read("17"), Ok(AsOf::Position(17)));
        assert_eq!(read("0"), Ok(AsOf::Position(0)));
        assert_eq!(read("1970-01-01T00:00:01.5Z"), Ok(AsOf::Time(1_500_000_000)));
        assert_eq!(read("1970-01-01T01:00:00+01:00"), Ok(AsOf::Time(0)));
        assert_eq!(read("1960-01-01T00:00:00Z"), Ok(AsOf::Time(0)));
        assert!(read("yesterday").is_err());
        assert!(read("-1").is_err());
        assert!(read("").is_err());
    }
}
