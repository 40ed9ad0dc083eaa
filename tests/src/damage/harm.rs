//! Ways to damage a store: files cut, emptied, deleted, swapped, duplicated, rolled back, blocks misdirected.

use super::{Files, Sample, kind_of};
use crate::sim_disk::Dice;

/// One way to damage a file, or several.
pub struct Harm {
    /// What it is.
    pub name: &'static str,
    /// Does the damage; answers the files it touched.
    pub run: fn(&mut Harming<'_>) -> Vec<String>,
}

/// A store that harm is done to.
pub struct Harming<'a> {
    /// The store as it was.
    pub sample: &'a Sample,
    /// Its files, which are changed.
    pub files: Files,
    /// Chooses where.
    pub dice: &'a mut Dice,
}

impl Harming<'_> {
    fn names(&self, kinds: &[&str]) -> Vec<String> {
        self.files.keys().filter(|name| kinds.contains(&kind_of(name))).cloned().collect()
    }

    fn any(&mut self) -> String {
        self.one_of(EVERY)
    }

    fn one_of(&mut self, kinds: &[&str]) -> String {
        let names = self.names(kinds);
        names[self.dice.index(names.len())].clone()
    }

    fn bytes(&mut self, name: &str) -> &mut Vec<u8> {
        self.files.get_mut(name).expect("a file of the store")
    }

    /// A random stretch of a file.
    fn stretch(&mut self, name: &str, unit: usize) -> std::ops::Range<usize> {
        let units = self.files[name].len().div_ceil(unit).max(1);
        let from = self.dice.index(units) * unit;
        from.min(self.files[name].len())..(from + unit).min(self.files[name].len())
    }

    fn overwrite(&mut self, name: &str, unit: usize, fill: impl Fn(&mut Dice) -> u8) -> Vec<String> {
        let range = self.stretch(name, unit);
        let mut dice = self.dice.clone();
        self.bytes(name)[range].fill_with(|| fill(&mut dice));
        *self.dice = dice;
        vec![name.to_owned()]
    }

    fn cut(&mut self, name: &str, unit: usize) -> Vec<String> {
        let len = self.files[name].len();
        let new = self.dice.index(len.div_ceil(unit).max(1)) * unit;
        self.bytes(name).truncate(new.min(len));
        vec![name.to_owned()]
    }

    fn copy(&mut self, from: &str, to: &str) -> Vec<String> {
        let bytes = self.files[from].clone();
        self.files.insert(to.to_owned(), bytes);
        vec![to.to_owned()]
    }

    fn remove(&mut self, name: &str) -> Vec<String> {
        self.files.remove(name);
        vec![name.to_owned()]
    }

    /// Puts a copy from an earlier moment in a file's place.
    fn roll_back(&mut self, kinds: &[&str]) -> Vec<String> {
        let name = self.one_of(kinds);
        let older = &self.sample.older[self.dice.index(self.sample.older.len())];
        match older.get(&name) {
            Some(bytes) => drop(self.files.insert(name.clone(), bytes.clone())),
            None => drop(self.files.remove(&name)),
        }
        vec![name]
    }

    fn newest_manifest(&self) -> String {
        self.names(&["manifest"]).pop().expect("there is one")
    }
}

/// Whichever of these kinds a store has.
const EVERY: &[&str] = &["segment", "container", "snapshots", "index", "manifest", "mark", "ring"];
/// Whatever holds the bytes of a segment.
const SEGMENTS: &[&str] = &["segment", "container"];

/// Thirty kinds of harm.
pub const HARMS: &[Harm] = &[
    Harm {
        name: "file cut anywhere",
        run: |h| {
            let name = h.any();
            h.cut(&name, 1)
        },
    },
    Harm {
        name: "file cut at a page",
        run: |h| {
            let name = h.any();
            h.cut(&name, 4096)
        },
    },
    Harm {
        name: "segment cut at a page",
        run: |h| {
            let name = h.one_of(SEGMENTS);
            h.cut(&name, 4096)
        },
    },
    Harm {
        name: "file emptied",
        run: |h| {
            let name = h.any();
            h.bytes(&name).clear();
            vec![name]
        },
    },
    Harm {
        name: "file deleted",
        run: |h| {
            let name = h.any();
            h.remove(&name)
        },
    },
    Harm {
        name: "segment deleted",
        run: |h| {
            let name = h.one_of(SEGMENTS);
            h.remove(&name)
        },
    },
    Harm {
        name: "file all zeros",
        run: |h| {
            let name = h.any();
            h.bytes(&name).fill(0);
            vec![name]
        },
    },
    Harm {
        name: "page of zeros",
        run: |h| {
            let name = h.any();
            h.overwrite(&name, 4096, |_| 0)
        },
    },
    Harm {
        name: "sector of zeros",
        run: |h| {
            let name = h.any();
            h.overwrite(&name, 512, |_| 0)
        },
    },
    Harm {
        name: "sector of noise",
        run: |h| {
            let name = h.any();
            h.overwrite(&name, 512, |dice| dice.next() as u8)
        },
    },
    Harm {
        name: "page of noise",
        run: |h| {
            let name = h.any();
            h.overwrite(&name, 4096, |dice| dice.next() as u8)
        },
    },
    Harm {
        name: "page of ones",
        run: |h| {
            let name = h.any();
            h.overwrite(&name, 4096, |_| 0xff)
        },
    },
    Harm {
        name: "file grown by zeros",
        run: |h| {
            let name = h.any();
            let more = 1 + h.dice.index(9000);
            let len = h.files[&name].len();
            h.bytes(&name).resize(len + more, 0);
            vec![name]
        },
    },
    Harm {
        name: "file grown by noise",
        run: |h| {
            let name = h.any();
            let more: Vec<u8> = (0..1 + h.dice.index(9000)).map(|n| n as u8 | 1).collect();
            h.bytes(&name).extend(more);
            vec![name]
        },
    },
    Harm {
        name: "pages swapped in a file",
        run: |h| {
            let name = h.one_of(SEGMENTS);
            let (a, b) = (h.stretch(&name, 4096), h.stretch(&name, 4096));
            let (left, right) = (h.files[&name][a.clone()].to_vec(), h.files[&name][b.clone()].to_vec());
            if left.len() == right.len() {
                h.bytes(&name)[a].copy_from_slice(&right);
                h.bytes(&name)[b].copy_from_slice(&left);
            }
            vec![name]
        },
    },
    Harm {
        name: "page of another segment",
        run: |h| {
            let (from, to) = (h.one_of(SEGMENTS), h.one_of(SEGMENTS));
            let (a, b) = (h.stretch(&from, 4096), h.stretch(&to, 4096));
            let page = h.files[&from][a].to_vec();
            if page.len() == b.len() {
                h.bytes(&to)[b].copy_from_slice(&page);
            }
            vec![to]
        },
    },
    Harm {
        name: "two segments swapped",
        run: |h| {
            let (a, b) = (h.one_of(SEGMENTS), h.one_of(SEGMENTS));
            let (left, right) = (h.files[&a].clone(), h.files[&b].clone());
            h.files.insert(a.clone(), right);
            h.files.insert(b.clone(), left);
            vec![a, b]
        },
    },
    Harm {
        name: "segment over another",
        run: |h| {
            let (a, b) = (h.one_of(SEGMENTS), h.one_of(SEGMENTS));
            h.copy(&a, &b)
        },
    },
    Harm {
        name: "segment under a new number",
        run: |h| {
            let a = h.one_of(SEGMENTS);
            h.copy(&a, "segment-00000000000000000077.log")
        },
    },
    Harm {
        name: "index over another",
        run: |h| {
            let (a, b) = (h.one_of(&["index"]), h.one_of(&["index"]));
            h.copy(&a, &b)
        },
    },
    Harm {
        name: "all indexes deleted",
        run: |h| {
            let all = h.names(&["index"]);
            for name in &all {
                h.files.remove(name);
            }
            all
        },
    },
    Harm { name: "file rolled back", run: |h| h.roll_back(EVERY) },
    Harm { name: "segment rolled back", run: |h| h.roll_back(SEGMENTS) },
    Harm { name: "mark rolled back", run: |h| h.roll_back(&["mark"]) },
    Harm {
        name: "newest manifest deleted",
        run: |h| {
            let name = h.newest_manifest();
            h.remove(&name)
        },
    },
    Harm {
        name: "older manifest as the newest",
        run: |h| {
            let all = h.names(&["manifest"]);
            h.copy(&all[0], &all[1])
        },
    },
    Harm {
        name: "both manifests deleted",
        run: |h| {
            let all = h.names(&["manifest"]);
            for name in &all {
                h.files.remove(name);
            }
            all
        },
    },
    Harm {
        name: "mark and ring deleted",
        run: |h| {
            h.files.remove("MARK");
            h.files.remove("RING");
            vec!["MARK".to_owned(), "RING".to_owned()]
        },
    },
    Harm {
        name: "file of another store",
        run: |h| {
            let name = h.any();
            let other = h.sample.another(h.dice.next());
            match other.files.get(&name) {
                Some(bytes) => drop(h.files.insert(name.clone(), bytes.clone())),
                None => drop(h.files.remove(&name)),
            }
            vec![name]
        },
    },
    Harm {
        name: "two damages at once",
        run: |h| {
            let (a, b) = (h.any(), h.any());
            let mut touched = h.overwrite(&a, 512, |dice| dice.next() as u8);
            touched.extend(h.cut(&b, 512));
            touched
        },
    },
];
