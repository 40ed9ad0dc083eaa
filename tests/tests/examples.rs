//! The engine's examples run, and hold what they assert.

macro_rules! example {
    ($name:ident, $path:literal) => {
        #[path = $path]
        #[allow(dead_code, reason = "its main is for those who run it by hand")]
        mod $name;

        #[test]
        fn $name() {
            $name::run().unwrap();
        }
    };
}

example!(bank_account, "../../engine/examples/bank_account.rs");
example!(course_subscription, "../../engine/examples/course_subscription.rs");
example!(retry, "../../engine/examples/retry.rs");
