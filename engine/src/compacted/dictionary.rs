//! A dictionary of raw content: the stretches of a segment's samples that occur again most often.
//!
//! The samples are cut into as many parts as the dictionary has room for stretches; of each part the stretch is taken whose
//! words of eight bytes occur most often elsewhere, and these words count no more after that. So nothing is taken twice, and
//! where nothing occurs again the dictionary is short or empty. Some 20 ns a byte of samples, and a table as long as they are, 8 MiB at most.

/// Length of a stretch.
const STRETCH: usize = 256;
/// Words are told apart by so many bits of their hash, at least and at most.
const HASH_BITS: std::ops::RangeInclusive<u32> = 12..=23;
/// A stretch is worth its place if its words occur so often again in the samples, on average of all its bytes.
const WORTH: u64 = 1;
const WORD: usize = 8;
/// What a zstd dictionary with tables begins with: raw content must not.
const TABLES: [u8; 4] = [0x37, 0xa4, 0x30, 0xec];

/// At most `len` bytes; empty where little would be gained.
pub(crate) fn gather(samples: &[u8], len: usize) -> Vec<u8> {
    if samples.len() < 2 * STRETCH || len < STRETCH {
        return Vec::new();
    }
    let bits = (usize::BITS - samples.len().leading_zeros()).clamp(*HASH_BITS.start(), *HASH_BITS.end());
    let slot = |word: &[u8]| slot(word, bits);
    let mut counts = vec![0u8; 1 << bits];
    for word in samples.windows(WORD) {
        let count = &mut counts[slot(word)];
        *count = count.saturating_add(1);
    }
    // So many others share a slot by chance.
    let by_chance = (samples.len() >> bits) as u8;
    let part = (samples.len() / (len / STRETCH)).max(STRETCH);
    let mut chosen: Vec<(u64, &[u8])> = Vec::new();
    for part in samples.chunks(part).filter(|part| part.len() >= STRETCH) {
        let (score, stretch) = best(part, slot, |slot| u64::from(counts[slot].saturating_sub(1 + by_chance)));
        if score >= WORTH * STRETCH as u64 {
            stretch.windows(WORD).for_each(|word| counts[slot(word)] = 0);
            chosen.push((score, stretch));
        }
    }
    // What is worth most stands nearest to what is compressed: small distances take fewer bits.
    chosen.sort_by_key(|(score, _)| *score);
    let mut dictionary = Vec::with_capacity(chosen.len() * STRETCH);
    chosen.iter().rev().take(len / STRETCH).rev().for_each(|(_, stretch)| dictionary.extend_from_slice(stretch));
    if dictionary.starts_with(&TABLES) {
        dictionary[0] = 0;
    }
    dictionary
}

#[inline]
fn slot(word: &[u8], bits: u32) -> usize {
    let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
    (word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - bits)) as usize
}

/// The stretch of the part with the most that occurs again. A run of the same word counts once.
fn best(part: &[u8], slot: impl Fn(&[u8]) -> usize, again: impl Fn(usize) -> u64) -> (u64, &[u8]) {
    const WORDS: usize = STRETCH - WORD + 1;
    let mut scores = [0u64; WORDS];
    let (mut score, mut most, mut at_most) = (0, 0, 0);
    let mut before = usize::MAX;
    for (at, word) in part.windows(WORD).enumerate() {
        let slot = slot(word);
        let enters = if slot == before { 0 } else { again(slot) };
        before = slot;
        score += enters;
        score -= std::mem::replace(&mut scores[at % WORDS], enters);
        if at + 1 >= WORDS && score > most {
            (most, at_most) = (score, at + 1 - WORDS);
        }
    }
    (most, &part[at_most..at_most + STRETCH])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn what_occurs_again_is_taken_once_and_noise_is_not() {
        assert!(gather(&noise(1 << 20, 1), 64 << 10).is_empty());
        let common = noise(4096, 2);
        let mut samples = Vec::new();
        for round in 0..200 {
            samples.extend(noise(1000, 100 + round));
            let at = (round as usize * 517) % (common.len() - 600);
            samples.extend(&common[at..at + 600]);
        }
        let dictionary = gather(&samples, 64 << 10);
        assert!(dictionary.len() >= 2048 && dictionary.len() <= 24 << 10, "{}", dictionary.len());
        let is_there = |at: usize| dictionary.windows(16).any(|window| *window == common[at..at + 16]);
        let there = (0..common.len() - 16).step_by(64).filter(|at| is_there(*at)).count();
        assert!(there > 40, "{there} of 63");
    }

    #[test]
    fn it_is_never_longer_than_asked_for() {
        let samples = b"the same words again and again, and again; ".repeat(2000);
        for len in [0, 100, 256, 1000, 4096] {
            assert!(gather(&samples, len).len() <= len);
        }
        assert!(gather(&[], 4096).is_empty());
        assert!(gather(&samples[..300], 4096).is_empty());
    }
}
