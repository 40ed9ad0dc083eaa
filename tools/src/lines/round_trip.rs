//! Whole data sets through parsing and printing, without a store.

use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Entry, Fields, Source, write_line};

fn check(path: &Path, sha256: &str) {
    let mut source = Source::open(path).unwrap();
    let (mut line, mut printed, mut digest) = (Vec::new(), Vec::new(), Sha256::new());
    while source.next_line(&mut line).unwrap() {
        let entry = Entry::parse(&line).unwrap_or_else(|fault| panic!("line {}: {fault:?}", source.line_number()));
        printed.clear();
        write_line(&mut printed, &Fields::from(&entry), entry.batch);
        assert!(printed.strip_suffix(b"\n") == Some(&line[..]), "line {}", source.line_number());
        digest.update(&printed);
    }
    assert_eq!(source.digest(), sha256);
    assert_eq!(data_encoding::HEXLOWER.encode(&digest.finalize()), sha256);
}

/// A file of the larger sets. Without them the test says so past the harness' capture, so that nobody takes it for run.
fn larger_set(name: &str) -> Option<PathBuf> {
    let Some(dir) = std::env::var_os("ANNALS_DATA") else {
        let said = format!("SKIPPED: {name}: ANNALS_DATA is not set\n");
        std::io::stdout().write_all(said.as_bytes()).unwrap();
        return None;
    };
    Some(Path::new(&dir).join(name))
}

#[test]
fn advisories() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/advisories/advisories.jsonl.zst");
    check(&path, "d79b9f40b4c622274bde35b94837be86ae116d40fe81b764127bc3a6fdaca9d3");
}

#[test]
fn webhooks() {
    if let Some(path) = larger_set("webhooks.jsonl.zst") {
        check(&path, "0600fa46d7205c02fa852ec585e3b00e203a15888e8a467cb10a14d00241bd6e");
    }
}

#[test]
fn scoop() {
    if let Some(path) = larger_set("scoop.jsonl.zst") {
        check(&path, "83b2fb98d4a629c5929243faeb1bbf7660aff824d4904da4ced68a031037fc9f");
    }
}
