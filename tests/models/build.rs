//! The room takes its atomics from loom, and one of its orderings is weakened if that is asked for.

fn main() {
    println!("cargo::rerun-if-env-changed=ANNALS_WEAKEN");
    println!("cargo::rustc-cfg=loom");
    if let Ok(name) = std::env::var("ANNALS_WEAKEN") {
        println!("cargo::rustc-cfg=annals_weaken=\"{name}\"");
    }
}
