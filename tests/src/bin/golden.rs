//! Writes the golden stores of a format version, once: `cargo run -p annals-tests --bin golden -- v1`, or those that are named
//! behind it.
//!
//! It leaves alone what is there. Golden stores of a version that was published are never written again.

use std::error::Error;
use std::sync::Arc;

use annals_tests::model::golden;
use annals_tests::sim_disk::SimDisk;

fn main() -> Result<(), Box<dyn Error>> {
    let version = std::env::args().nth(1).ok_or("which version? for example: golden v1")?;
    let directory = golden::directory(&version);
    std::fs::create_dir_all(&directory)?;
    let wanted: Vec<String> = std::env::args().skip(2).collect();
    for (name, store) in golden::make()? {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        store.save(&directory.join(name))?;
        println!("{name} {}", golden::sha256(store.file_list().as_bytes()));
        let opened = golden::options().open_storage(Arc::new(SimDisk::from_files(&store.files)))?;
        println!("{name}: {:?}", golden::consumers_of(&opened));
        println!("{name}: {:?}", golden::snapshots_of(&opened)?);
    }
    Ok(())
}
