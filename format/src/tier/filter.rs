//! The filter of ids: words of 64 bits, about 16 bits an id, 4 set in one word.
//!
//! The word is chosen by the top bits of the hash, so that the filter is made front to back while ids go by in order; the
//! bits by the lowest, which have no part in that.

/// Bits of the filter for each id.
const BITS_AN_ID: u32 = 16;

pub(super) fn word_count(ids: u32) -> u32 {
    ids.div_ceil(u64::BITS / BITS_AN_ID)
}

#[inline]
pub(super) fn word_of(hash: u64, words: u32) -> u32 {
    ((u128::from(hash) * u128::from(words)) >> 64) as u32
}

#[inline]
pub(super) fn bits_of(hash: u64) -> u64 {
    let bit = |n: u32| 1u64 << ((hash >> (6 * n)) & 63);
    bit(0) | bit(1) | bit(2) | bit(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_absent_ids_pass() {
        // A fixed generator, so that the share is always the same.
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ (mixed >> 31)
        };
        let ids = 50_000;
        let mut words = vec![0u64; word_count(ids) as usize];
        for _ in 0..ids {
            let hash = next();
            words[word_of(hash, word_count(ids)) as usize] |= bits_of(hash);
        }
        let passed = |hash: u64| words[word_of(hash, word_count(ids)) as usize] & bits_of(hash) == bits_of(hash);
        let wrong = (0..100_000).filter(|_| passed(next())).count();
        assert!(wrong < 1_500, "{wrong} of 100,000 absent ids pass");
    }

    #[test]
    fn words_rise_with_the_hash() {
        assert_eq!((word_of(0, 7), word_of(u64::MAX, 7)), (0, 6));
        assert!((0..1000u64).map(|n| word_of(n << 54, 7)).is_sorted());
        assert_eq!((word_of(u64::MAX, 0), word_count(0), word_count(5)), (0, 0, 2));
    }
}
