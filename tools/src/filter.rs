//! Which events: the options that `cat`, `tail` and `export` share.

use annals::{EventRef, Query, QueryItem, Reader};
use clap::Args;

use crate::failure::{Code, Failure};

/// Alternatives within an option, all options together.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Only this stream; * and ? stand for any characters and any one, \ takes the next one as it is (may be repeated)
    #[arg(long = "stream", value_name = "NAME|GLOB")]
    streams: Vec<String>,
    /// Only events of this type (may be repeated)
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only events that carry this tag (repeated: all of them)
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
}

impl Filter {
    /// What the store can find by its index. It may give more streams than asked for: see [`Filter::matcher`].
    pub(crate) fn query(&self) -> Query {
        let patterns: Vec<Pattern> = self.streams.iter().map(|text| Pattern::new(text)).collect();
        let mut item = QueryItem::new();
        let mut restricted = false;
        // A pattern that begins with a wildcard can be any stream's.
        if patterns.iter().all(|pattern| !pattern.prefix().is_empty()) {
            for pattern in &patterns {
                restricted = true;
                let prefix = pattern.prefix();
                item = if pattern.is_literal() { item.streams([prefix]) } else { item.prefix(prefix) };
            }
        }
        restricted |= !(self.types.is_empty() && self.tags.is_empty());
        item = item.types(self.types.iter().cloned()).tags_all(self.tags.iter().cloned());
        if restricted { Query::item(item) } else { Query::all() }
    }

    /// Whether an event that the query gave is one asked for.
    pub(crate) fn matcher(&self) -> impl Fn(EventRef<'_>) -> bool + use<> {
        let patterns: Vec<Pattern> = self.streams.iter().map(|text| Pattern::new(text)).collect();
        let exact = patterns.iter().all(|pattern| pattern.is_literal() && !pattern.prefix().is_empty());
        move |event| exact || patterns.iter().any(|pattern| pattern.matches(event.stream()))
    }

    /// `NotFound` with the nearest name, if a stream or type is named that was never written.
    pub(crate) fn must_exist(&self, reader: &Reader) -> Result<(), Failure> {
        for text in &self.streams {
            let pattern = Pattern::new(text);
            if pattern.is_literal() && reader.stream_state(&pattern.prefix())?.last().is_none() {
                return Err(no_such_stream(reader, &pattern.prefix())?);
            }
        }
        if !self.types.is_empty() {
            let known: Vec<String> = reader.types()?.into_iter().map(|info| info.name).collect();
            if let Some(unknown) = self.types.iter().find(|name| !known.contains(name)) {
                return Err(not_found("type", unknown, known, "annals ls STORE --types"));
            }
        }
        Ok(())
    }
}

/// What to answer when `name` was never written.
pub(crate) fn no_such_stream(reader: &Reader, name: &str) -> Result<Failure, Failure> {
    let known = reader.streams("")?.into_iter().map(|info| info.name).collect();
    Ok(not_found("stream", name, known, "annals ls STORE"))
}

fn not_found(kind: &str, name: &str, known: Vec<String>, list: &str) -> Failure {
    let nearest =
        known.into_iter().map(|other| (strsim::jaro_winkler(name, &other), other)).max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match nearest {
        Some((likeness, other)) if likeness > 0.8 => format!("did you mean {other:?}? `{list}` lists all"),
        _ => format!("`{list}` lists all"),
    };
    Failure::new(Code::NotFound, format!("no {kind} {name:?} in this store"), hint)
}

/// A name with wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern(Vec<Part>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    This(char),
    AnyOne,
    Any,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            parts.push(match character {
                '*' => Part::Any,
                '?' => Part::AnyOne,
                '\\' => Part::This(characters.next().unwrap_or('\\')),
                other => Part::This(other),
            });
        }
        Self(parts)
    }

    /// What stands before the first wildcard.
    fn prefix(&self) -> String {
        self.0.iter().map_while(|part| if let Part::This(character) = part { Some(*character) } else { None }).collect()
    }

    fn is_literal(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::This(_)))
    }

    /// Goes back to the last `*` only, so the time is at most the product of the lengths.
    fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut part, mut retry) = (0, 0, None);
        while at < name.len() {
            match self.0.get(part) {
                Some(Part::Any) => {
                    retry = Some((part, at));
                    part += 1;
                }
                Some(Part::AnyOne) => (part, at) = (part + 1, at + 1),
                Some(Part::This(character)) if *character == name[at] => (part, at) = (part + 1, at + 1),
                _ => match retry {
                    Some((star, from)) => {
                        retry = Some((star, from + 1));
                        (part, at) = (star + 1, from + 1);
                    }
                    None => return false,
                },
            }
        }
        self.0[part..].iter().all(|rest| *rest == Part::Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, name: &str, expected: bool) {
        assert_eq!(Pattern::new(pattern).matches(name), expected, "{pattern} {name}");
    }

    #[test]
    fn wildcards() {
        check("order-7", "order-7", true);
        check("order-7", "order-77", false);
        check("order-*", "order-", true);
        check("order-*", "orders-1", false);
        check("*-7", "order-7-7", true);
        check("a*b*c", "a-b-b-c-c", true);
        check("a*b*c", "a-c-b", false);
        check("?", "é", true);
        check("?", "ab", false);
        check("*", "", true);
        check("", "x", false);
        check(r"a\*", "a*", true);
        check(r"a\*", "ab", false);
        check(r"a\", r"a\", true);
    }

    #[test]
    fn prefixes() {
        assert_eq!(Pattern::new("crates/*-sys").prefix(), "crates/");
        assert_eq!(Pattern::new(r"a\*b?").prefix(), "a*b");
        assert_eq!(Pattern::new("*").prefix(), "");
    }

    #[test]
    fn queries() {
        let filter =
            |streams: &[&str]| Filter { streams: streams.iter().map(|s| s.to_string()).collect(), ..Filter::default() };
        assert_eq!(filter(&[]).query(), Query::all());
        assert_eq!(filter(&["a"]).query(), Query::stream("a"));
        assert_eq!(filter(&["a*"]).query(), Query::prefix("a"));
        assert_eq!(filter(&["a", "*"]).query(), Query::all());
        let both = QueryItem::new().streams(["a"]).prefix("b");
        assert_eq!(filter(&["a", "b*"]).query(), Query::item(both));
    }
}
