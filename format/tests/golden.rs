//! The bytes of version 1, pinned: a change of any of these is a change of the format.

mod samples;

/// Sixteen bytes a line; runs of zero lines are folded into one `*`, as `hexdump` does.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut folded = false;
    for (n, line) in bytes.chunks(16).enumerate() {
        if line.iter().all(|byte| *byte == 0) {
            if !folded {
                text.push_str("*\n");
            }
            folded = true;
            continue;
        }
        folded = false;
        let digits: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push_str(&format!("{:04x} {}\n", n * 16, digits.join(" ")));
    }
    text
}

/// Blocks of the file: a line `== name`, then its lines.
#[test]
fn bytes_are_those_of_version_1() {
    let golden = include_str!("golden.hex");
    let mut made = String::new();
    for structure in samples::all() {
        made.push_str(&format!("== {}\n{}", structure.name, hex(&structure.bytes)));
    }
    assert!(made == golden, "the bytes have changed; made now:\n---\n{made}---\n");
}
