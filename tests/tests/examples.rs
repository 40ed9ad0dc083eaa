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

example!(account_snapshots, "../../engine/examples/account_snapshots.rs");
example!(backup_and_restore, "../../engine/examples/backup_and_restore.rs");
example!(bank_account, "../../engine/examples/bank_account.rs");
example!(course_subscriptions, "../../engine/examples/course_subscriptions.rs");
example!(exactly_once, "../../engine/examples/exactly_once.rs");
example!(folded_by_compaction, "../../engine/examples/folded_by_compaction.rs");
example!(idempotent_consumer, "../../engine/examples/idempotent_consumer.rs");
example!(live_dashboard, "../../engine/examples/live_dashboard.rs");
example!(order_totals, "../../engine/examples/order_totals.rs");
example!(removal, "../../engine/examples/removal.rs");
example!(retry, "../../engine/examples/retry.rs");
example!(snapshot_in_place, "../../engine/examples/snapshot_in_place.rs");
example!(sqlite_projection, "../examples/sqlite_projection.rs");
example!(unique_name, "../../engine/examples/unique_name.rs");
example!(workers, "../../engine/examples/workers.rs");

/// An example that is not named above would never run.
#[test]
fn every_example_is_run() {
    let mut files: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/examples"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let named = [
        "account_snapshots.rs",
        "backup_and_restore.rs",
        "bank_account.rs",
        "course_subscriptions.rs",
        "exactly_once.rs",
        "folded_by_compaction.rs",
        "idempotent_consumer.rs",
        "live_dashboard.rs",
        "order_totals.rs",
        "removal.rs",
        "retry.rs",
        "snapshot_in_place.rs",
        "unique_name.rs",
        "workers.rs",
    ];
    assert_eq!(files, named);
}
