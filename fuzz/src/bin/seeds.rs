//! Writes `seeds/<target>/`: the samples of the tests, whole and in part, and changes of a whole store. Run in this directory.

use std::fs;
use std::path::Path;

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
    for number in 0..8 {
        let mut dice = Dice::new(number);
        let bytes: Vec<u8> = (0..10 + 9 * (number % 4)).map(|_| dice.next() as u8).collect();
        write("whole_store", &format!("dice-{number}"), &bytes)?;
    }
    Ok(())
}

fn write(target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let directory = Path::new("seeds").join(target);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join(name), bytes)
}
