//! Backup points: what belongs together, and what is refused.

mod samples;

use annals_format::Fault;
use annals_format::backup_point::{BackupPoint, Piece, stored_len};
use annals_format::manifest::{AncestorEntry, LostEntry};

fn changed(change: impl FnOnce(&mut BackupPoint)) -> Result<BackupPoint, Fault> {
    let mut point = samples::backup_point();
    change(&mut point);
    BackupPoint::decode(&point.encode())
}

#[test]
fn what_was_encoded_is_decoded() {
    assert_eq!(changed(|_| ()), Ok(samples::backup_point()));
    let empty = changed(|point| {
        point.manifest.segments.clear();
        point.pieces.clear();
    });
    assert_eq!(empty.map(|point| (point.last_position(), point.last_time())), Ok((0, 0)));
    // What a manifest of a fork and of a repaired store has besides comes along.
    let ancestor = AncestorEntry { store: [7; 16], incarnation: [8; 16], last_position: 12 };
    let lost = LostEntry { first_position: 3, last_position: 5 };
    let of_fork = changed(|point| {
        point.manifest.ancestors = vec![ancestor];
        point.manifest.lost = vec![lost];
    });
    let manifest = of_fork.unwrap().manifest;
    assert_eq!((manifest.ancestors, manifest.lost), (vec![ancestor], vec![lost]));
}

#[test]
fn each_segment_is_covered_by_its_pieces_without_a_gap() {
    let is_refused = |change: fn(&mut Vec<Piece>)| changed(|point| change(&mut point.pieces)).is_err();
    assert!(is_refused(|pieces| _ = pieces.pop()), "one is missing at the end");
    assert!(is_refused(|pieces| _ = pieces.remove(0)), "one is missing at the beginning");
    assert!(is_refused(|pieces| pieces.swap(1, 2)), "out of order");
    assert!(is_refused(|pieces| pieces[2].from += 8), "a gap");
    assert!(is_refused(|pieces| pieces[2].from -= 8), "an overlap");
    assert!(is_refused(|pieces| pieces[2].to += 8), "too long");
    assert!(is_refused(|pieces| pieces[1].to = 4000), "a divided header");
    assert!(is_refused(|pieces| pieces[2].segment = 2), "of no segment");
    assert!(is_refused(|pieces| pieces.push(pieces[2])), "one too many");
    let sample = samples::backup_point();
    let ends: Vec<u64> = sample.manifest.segments.iter().map(stored_len).collect();
    assert_eq!(ends, [8192, 8192 + 128]);
}

#[test]
fn what_it_says_of_its_manifest_is_true() {
    let sample = samples::backup_point().encode();
    for at in [40, 80, 88] {
        let mut bytes = sample.clone();
        bytes[at] ^= 1;
        samples::fix_backup_point(&mut bytes);
        assert!(matches!(BackupPoint::decode(&bytes), Err(Fault::Identity { .. })), "byte {at}");
    }
    // A manifest that does not verify is no manifest, whatever surrounds it.
    let mut bytes = sample.clone();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    samples::fix_header(&mut bytes, 0, usize::MAX);
    assert!(matches!(BackupPoint::decode(&bytes), Err(Fault::Checksum { what: "manifest", .. })));
}
