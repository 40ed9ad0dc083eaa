//! Writes `seeds/<target>/`: the samples of the tests, whole and in part, and changes of a whole store. Run in this directory.

use std::fs;
use std::path::Path;

use annals_format::index_file::FileKind;
use annals_format::packed_places;
use annals_format::request::{Answer, AnswerState, Live, Request};
use annals_fuzz::samples;
use annals_tests::sim_disk::Dice;

fn main() -> std::io::Result<()> {
    for structure in samples::all() {
        let (target, of) = match structure.name {
            "bare_batch" => ("sectioned_batch", "bare-"),
            "sectioned_manifest" => ("manifest", "sectioned-"),
            "snapshot_manifest" => ("manifest", "snapshot-"),
            name => (name, ""),
        };
        write(target, &format!("{of}sample"), &structure.bytes)?;
        write(target, &format!("{of}half"), &structure.bytes[..structure.bytes.len() / 2])?;
    }
    write("scan", "sample", &samples::scanned())?;
    write("scan", "one-batch", &samples::batch())?;
    let mut control = samples::control_frame();
    samples::fix_record(&mut control, samples::FIRST);
    write("record", "control", &control)?;
    for (number, frame) in samples::control_frames().iter().enumerate() {
        write("record", &format!("control-{}", number + 1), frame)?;
    }
    // A block of a compacted segment begins with a batch; in front of it stand where the walk begins and at which position.
    let start = [0, 0, samples::FIRST as u8, 0];
    write("residue", "batch", &[&start[..], &samples::batch()].concat())?;
    write("residue", "record", &[&[40, 3, samples::FIRST as u8, 0][..], &samples::batch()].concat())?;
    let identity = samples::file_identity(FileKind::PackedPlaces, samples::FIRST, samples::FIRST + 3);
    let places = packed_places::encode(&identity, &[517, 526, 0, 564], [(0, 512), (3, 559)]).expect("a small file");
    write("packed_places", "sample", &places)?;
    write("request", "request", &request().encode())?;
    write("request", "answer", &answer().encode())?;
    for number in 0..8 {
        let mut dice = Dice::new(number);
        let bytes: Vec<u8> = (0..10 + 9 * (number % 4)).map(|_| dice.next() as u8).collect();
        write("whole_store", &format!("dice-{number}"), &bytes)?;
    }
    Ok(())
}

fn request() -> Request {
    Request {
        store: [1; 16],
        id: [2; 16],
        asked_at: 3,
        bytes_per_second: 4 << 20,
        block_len: 64 << 10,
        level: 3,
        live: Live::EndWhereRemoved,
        sweep: true,
    }
}

fn answer() -> Answer {
    Answer {
        store: [1; 16],
        request: [2; 16],
        state: AnswerState::Failed,
        ended_live: true,
        written_at: 4,
        progress: [5, 6],
        figures: [7, 8, 9, 10, 11, 12],
        text: "größer".to_owned(),
    }
}

fn write(target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let directory = Path::new("seeds").join(target);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join(name), bytes)
}
