//! Names of streams, types and tags.

/// Longest name, in bytes.
pub const NAME_LEN_MAX: usize = 255;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;
const SPACES: u64 = 0x2020_2020_2020_2020;

/// Sets the high bit of some byte unless all eight lie in 0x20..=0x7e.
#[inline(always)]
fn unprintable(word: u64) -> u64 {
    // Adding one lifts 0x7f to the high bit; with the high bit set, taking 0x20 away clears it below 0x20. A byte that
    // had the high bit to begin with may carry into its neighbour, but fails by itself.
    word | word.wrapping_add(ONES) | !((word | HIGH).wrapping_sub(SPACES))
}

/// Whether all bytes are printable ASCII: then any part of them is a well-formed text without control characters.
#[inline]
pub(crate) fn is_printable(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let whole = words.iter().fold(0, |found, word| found | unprintable(u64::from_le_bytes(*word)));
    let tail = match bytes.last_chunk::<8>() {
        _ if rest.is_empty() => 0,
        // The last eight bytes, some of them for the second time.
        Some(last) => unprintable(u64::from_le_bytes(*last)),
        None if rest.iter().all(|byte| (0x20..=0x7e).contains(byte)) => 0,
        None => HIGH,
    };
    (whole | tail) & HIGH == 0
}

/// Whether this is 1 to 255 bytes of UTF-8 without control characters (U+0000..U+001F, U+007F..U+009F).
///
/// A few nanoseconds for printable ASCII.
#[inline]
pub fn is_well_formed(name: &[u8]) -> bool {
    if name.is_empty() || name.len() > NAME_LEN_MAX {
        return false;
    }
    is_printable(name) || is_text_without_controls(name)
}

#[cold]
fn is_text_without_controls(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place() {
        for len in 1..20 {
            for at in 0..len {
                for byte in 0..=255u8 {
                    let mut name = vec![b'a'; len];
                    name[at] = byte;
                    assert_eq!(is_printable(&name), (0x20..=0x7e).contains(&byte), "byte {byte:#x} at {at} of {len}");
                }
            }
        }
    }

    #[test]
    fn names() {
        assert!(is_well_formed(b"order-1"));
        assert!(is_well_formed("größe".as_bytes()));
        assert!(is_well_formed(&[b'a'; 255]));
        assert!(!is_well_formed(&[b'a'; 256]));
        assert!(!is_well_formed(b""));
        assert!(!is_well_formed(b"a\nb"));
        assert!(!is_well_formed("a\u{7f}".as_bytes()));
        assert!(!is_well_formed("ä\u{85}".as_bytes()));
        assert!(!is_well_formed(&[0xff, 0xfe]));
    }
}
