//! Decodes the input as it is, and again with its checksums put right.
#![no_main]

use annals_fuzz::samples::{self, Structure};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static STRUCTURE: LazyLock<Structure> = LazyLock::new(|| samples::structure("snapshot_file"));

fuzz_target!(|bytes: &[u8]| samples::exercise(&STRUCTURE, bytes));
