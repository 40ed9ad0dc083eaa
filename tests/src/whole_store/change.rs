//! What bytes of a fuzzer do to the files of a store.

use super::Files;
use super::checksums::Places;
use crate::damage::kind_of;

/// Input, read from front to back; zeros behind its end.
#[derive(Debug)]
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn number(&mut self) -> usize {
        usize::from(self.next()) << 8 | usize::from(self.next())
    }

    fn one_of<'b, T>(&mut self, all: &'b [T]) -> Option<&'b T> {
        let number = self.number();
        all.get(number % all.len().max(1))
    }
}

/// Numbers that lengths, counts and positions go wrong at.
const NUMBERS: [u64; 16] = [
    0,
    1,
    7,
    8,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff7,
    0xffff_ffff,
    1 << 32,
    (1 << 40) + 8,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

/// The changes there are.
pub const CHANGES: [&str; 10] = [
    "bits flipped",
    "number of 32 bits",
    "number of 64 bits",
    "number moved a little",
    "bytes overwritten",
    "cut or grown",
    "stretch copied",
    "zeros",
    "deleted",
    "exchanged",
];

/// Does one change; answers what it was and to which kind of file.
pub(super) fn change(
    files: &mut Files,
    places: &Places,
    bytes: &mut Bytes<'_>,
) -> Option<(&'static str, &'static str)> {
    let names: Vec<String> = files.keys().cloned().collect();
    let which = bytes.next();
    // Mostly a kind first, so that the many segments do not hide the few small files.
    let kinds = ["segment", "index", "manifest", "mark", "ring"];
    let of_kind: Vec<&String> = names
        .iter()
        .filter(|name| kinds.get(usize::from(which % 6)).is_none_or(|kind| kind_of(name) == *kind))
        .collect();
    let name = (*bytes.one_of(&of_kind)?).clone();
    let place = place(&files[&name], places, &name, bytes);
    let what = match bytes.next() % 32 {
        0..6 => 0,
        6..11 => 1,
        11..16 => 2,
        16..22 => 3,
        22..24 => 4,
        24..26 => 5,
        26..28 => 6,
        28..30 => 7,
        30 => 8,
        _ => 9,
    };
    let file = files.get_mut(&name).expect("it is there");
    match what {
        0 => set(file, place, |byte| byte ^ bytes.next().max(1), 1),
        1 => put(file, place & !3, &(*bytes.one_of(&NUMBERS)? as u32).to_le_bytes()),
        2 => put(file, place & !7, &bytes.one_of(&NUMBERS)?.to_le_bytes()),
        3 => {
            let (at, by) = (place & !3, i32::from(bytes.next() as i8));
            if let Some(four) = file.get(at..at + 4) {
                let number = u32::from_le_bytes(four.try_into().expect("four bytes"));
                put(file, at, &number.wrapping_add_signed(by).to_le_bytes());
            }
        }
        4 => {
            let len = usize::from(bytes.next() % 32);
            set(file, place, |_| bytes.next(), len);
        }
        5 => {
            let len =
                if bytes.next().is_multiple_of(2) { place } else { (file.len() + bytes.number()).min(file.len() * 2) };
            file.resize(len, 0);
        }
        6 => {
            let (from, len) = ((*bytes.one_of(&names)?).clone(), 8 * usize::from(bytes.next()));
            let at = self::place(&files[&from], places, &from, bytes);
            let stretch = files[&from].get(at..at + len).unwrap_or_default().to_vec();
            put(files.get_mut(&name).expect("it is there"), place, &stretch);
        }
        7 => {
            let len = bytes.number();
            set(file, place, |_| 0, len);
        }
        8 => drop(files.remove(&name)),
        _ => {
            let other = (*bytes.one_of(&names)?).clone();
            let (a, b) = (files[&name].clone(), files[&other].clone());
            files.insert(name.clone(), b);
            files.insert(other, a);
        }
    }
    Some((CHANGES[what], kind_of(&name)))
}

/// A place in a file: in the beginning of one of its structures, or anywhere.
fn place(file: &[u8], places: &Places, name: &str, bytes: &mut Bytes<'_>) -> usize {
    let near = bytes.next();
    if near < 200 {
        let starts = places.starts(name);
        let start = bytes.one_of(&starts).copied().unwrap_or(0);
        return start + usize::from(near);
    }
    (bytes.number() << 8 | usize::from(bytes.next())) % file.len().max(1)
}

fn set(file: &mut [u8], at: usize, mut to: impl FnMut(u8) -> u8, len: usize) {
    file.iter_mut().skip(at).take(len).for_each(|byte| *byte = to(*byte));
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    let mut bytes = bytes.iter();
    let len = bytes.len();
    set(file, at, |byte| bytes.next().copied().unwrap_or(byte), len);
}
