//! Times of the lines: RFC 3339 in UTC, kept with the number of fraction digits they came with.

use annals::OccurredAt;
use jiff::Timestamp;

/// Length of `2017-02-26T00:43:37`.
const SECONDS_LEN: usize = 19;

/// Reads `2017-02-26T00:43:37Z` with 0 to 9 digits of fraction.
///
/// Whatever [`print_time`] would not give back as it was is refused: an offset other than `Z`, a leap second, lower
/// case.
pub(crate) fn parse_time(text: &str) -> Result<OccurredAt, String> {
    let at: Timestamp =
        text.parse().map_err(|_| format!("time {text:?} is not RFC 3339, as in 2017-02-26T00:43:37Z"))?;
    let nanos = i64::try_from(at.as_nanosecond())
        .map_err(|_| format!("time {text:?} lies outside 1677-09-21T00:12:44Z and 2262-04-11T23:47:16Z"))?;
    let digits = text.len().saturating_sub(SECONDS_LEN + 2);
    let parsed = OccurredAt { nanos, digits: u8::try_from(digits.min(9)).unwrap_or(9) };
    if print_time(parsed) == text {
        Ok(parsed)
    } else {
        Err(format!("time {text:?} is not UTC with a closing Z and 0 to 9 digits of fraction"))
    }
}

/// The text that [`parse_time`] read.
pub(crate) fn print_time(at: OccurredAt) -> String {
    let digits = usize::from(at.digits);
    format!("{:.digits$}", Timestamp::from_nanosecond(at.nanos.into()).expect("64 bits of nanoseconds are in range"))
}

/// A time of the store's own clock, with all its nine digits.
pub(crate) fn print_wall_clock(nanos: u64) -> String {
    format!("{:.9}", Timestamp::from_nanosecond(nanos.into()).expect("64 bits of nanoseconds are in range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, nanos: i64, digits: u8) {
        let at = parse_time(text).unwrap();
        assert_eq!((at.nanos, at.digits), (nanos, digits), "{text}");
        assert_eq!(print_time(at), text);
    }

    #[test]
    fn every_number_of_digits_comes_back() {
        check("1970-01-01T00:00:00Z", 0, 0);
        check("1970-01-01T00:00:01.5Z", 1_500_000_000, 1);
        check("2017-02-26T00:43:37.120Z", 1_488_069_817_120_000_000, 3);
        check("2017-02-26T00:43:37.000000Z", 1_488_069_817_000_000_000, 6);
        check("2017-02-26T00:43:37.000000001Z", 1_488_069_817_000_000_001, 9);
        check("1969-12-31T23:59:59.999999999Z", -1, 9);
        check("1969-12-31T23:59:59.9Z", -100_000_000, 1);
        check("1677-09-21T00:12:43.145224192Z", i64::MIN, 9);
        check("2262-04-11T23:47:16.854775807Z", i64::MAX, 9);
    }

    #[test]
    fn what_would_not_come_back_is_refused() {
        for text in [
            "",
            "yesterday",
            "2017-02-26",
            "2017-02-26T00:43:37",
            "2017-02-26T00:43:37+00:00",
            "2017-02-26T01:43:37+01:00",
            "2017-02-26t00:43:37z",
            "2017-02-26 00:43:37Z",
            "2016-12-31T23:59:60Z",
            "2017-02-26T00:43:37.1234567891Z",
            "2017-02-30T00:00:00Z",
            "1677-09-21T00:12:43.145224191Z",
            "2262-04-11T23:47:16.854775808Z",
            "+002017-02-26T00:43:37Z",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
