//! `retain`: how much is kept.

use std::path::PathBuf;
use std::time::Duration;

use annals::{Retention, Scope};
use clap::Args;

use crate::failure::Failure;
use crate::opening;
use crate::output::Output;

/// What `retain` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
A policy hides nothing by itself: `annals sweep` does. It takes the place of the one of the same scope before; --none \
withdraws that. A stream that several policies cover keeps what all of them keep. Without a scope the policies that \
stand are printed.
Ages: a number and s, m, h, d or w. Bytes: a number and K, M, G or T (powers of 1024), or nothing.")]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    /// Of this stream
    #[arg(long, conflicts_with_all = ["prefix", "whole"])]
    stream: Option<String>,
    /// Of all streams whose names begin so; "" means all
    #[arg(long, conflicts_with = "whole")]
    prefix: Option<String>,
    /// Of the store as a whole
    #[arg(long = "store-wide")]
    whole: bool,
    /// Events recorded longer ago are let go of
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    max_age: Option<Duration>,
    /// The newest so many events of each stream are kept
    #[arg(long, value_name = "EVENTS")]
    max_count: Option<u64>,
    /// The newest so many bytes of log are kept; with --store-wide alone
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    max_bytes: Option<u64>,
    /// Withdraw the policy of this scope
    #[arg(long, conflicts_with_all = ["max_age", "max_count", "max_bytes"])]
    none: bool,
    /// Only say what would stand
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_age(text: &str) -> Result<Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 604_800)];
    let found = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds)));
    let seconds = found.and_then(|(number, seconds)| number.parse::<u64>().ok()?.checked_mul(seconds));
    let age = seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    age.ok_or_else(|| "a number and s, m, h, d or w, as in 30d".to_owned())
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [("K", 10), ("M", 20), ("G", 30), ("T", 40), ("", 0)];
    let found = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    let bytes = found.and_then(|(number, shift)| number.parse::<u64>().ok()?.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "a number and K, M, G or T, as in 10G".to_owned())
}

impl Arguments {
    fn scope(&self) -> Option<Scope> {
        match (&self.stream, &self.prefix, self.whole) {
            (Some(stream), ..) => Some(Scope::Stream(stream.clone())),
            (_, Some(prefix), _) => Some(Scope::Prefix(prefix.clone())),
            (.., true) => Some(Scope::Store),
            _ => None,
        }
    }

    fn retention(&self) -> Retention {
        let mut retention = Retention::new();
        if let Some(age) = self.max_age {
            retention = retention.max_age(age);
        }
        if let Some(count) = self.max_count {
            retention = retention.max_count(count);
        }
        if let Some(bytes) = self.max_bytes {
            retention = retention.max_bytes(bytes);
        }
        retention
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    opening::must_exist(&arguments.store)?;
    let retention = arguments.retention();
    let has_limits = retention != Retention::new();
    let mut standing = opening::read_only(&arguments.store)?.retentions();
    let mut position = None;
    match arguments.scope() {
        Some(scope) if has_limits || arguments.none => {
            if arguments.dry_run {
                standing.retain(|(of, _)| *of != scope);
                standing.extend(has_limits.then_some((scope, retention)));
            } else {
                let store = opening::writable(&arguments.store)?;
                position = store.set_retention(&scope, retention)?;
                standing = store.retentions();
                store.close()?;
            }
        }
        Some(scope) => standing.retain(|(of, _)| *of == scope),
        None if has_limits || arguments.none => {
            return Err(Failure::new(
                crate::failure::Code::Usage,
                "limits of what?",
                "give --stream, --prefix or --store-wide",
            ));
        }
        None => {}
    }
    let mut out = Output::new();
    if arguments.json {
        let policies: Vec<serde_json::Value> = standing.iter().map(|(scope, kept)| document(scope, kept)).collect();
        let document = serde_json::json!({
            "version": 1,
            "dry_run": arguments.dry_run,
            "position": position.map(|position| position.get()),
            "policies": policies,
        });
        out.line(&document.to_string())?;
    } else {
        for (scope, retention) in &standing {
            out.line(&format!("{}: {}", scope_text(scope), limits_text(retention)))?;
        }
    }
    out.flush()
}

fn kind(scope: &Scope) -> &'static str {
    match scope {
        Scope::Stream(_) => "stream",
        Scope::Prefix(_) => "prefix",
        Scope::Store => "store",
    }
}

fn document(scope: &Scope, retention: &Retention) -> serde_json::Value {
    let (age, count, bytes) = retention.limits();
    serde_json::json!({
        "scope": kind(scope),
        "name": scope.name(),
        "max_age_seconds": age.map(|age| age.as_secs_f64()),
        "max_count": count,
        "max_bytes": bytes,
    })
}

fn scope_text(scope: &Scope) -> String {
    match scope {
        Scope::Store => "store".to_owned(),
        _ => format!("{} {:?}", kind(scope), scope.name()),
    }
}

fn limits_text(retention: &Retention) -> String {
    let (age, count, bytes) = retention.limits();
    let age = age.map(|age| format!("no older than {} s", age.as_secs_f64()));
    let count = count.map(|count| format!("the newest {count} events"));
    let bytes = bytes.map(|bytes| format!("the newest {bytes} bytes of log"));
    [age, count, bytes].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes() {
        assert_eq!(parse_age("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(parse_age("1w"), Ok(Duration::from_secs(604_800)));
        assert!(parse_age("30").is_err() && parse_age("d").is_err() && parse_age("0s").is_err());
        assert_eq!(parse_bytes("10G"), Ok(10 << 30));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert!(parse_bytes("-1").is_err() && parse_bytes("0").is_err() && parse_bytes("99999999T").is_err());
    }
}
