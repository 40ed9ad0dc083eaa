//! The engine takes its atomics and locks from shuttle.

fn main() {
    println!("cargo::rustc-cfg=shuttle");
}
