//! Everything that a reader of a small store tells, to be compared.

use annals::{Lookup, Query, ReadEvents, Seek};

/// Everything that can be asked of a store with the streams `s-0` to `s-2`, in one value: its head, a line for each event, its
/// streams, its types.
///
/// # Panics
/// If a read fails, or ways of asking answer differently.
#[must_use]
pub fn told(events: &impl ReadEvents) -> (u64, Vec<String>, String, String) {
    let reader = events.reader();
    let all: Vec<String> = reader
        .read_all(&Query::all(), Seek::Beginning)
        .unwrap()
        .map(|event| {
            let event = event.unwrap();
            let found = reader.by_id(event.id()).unwrap();
            assert!(matches!(found, Lookup::Found(found) if found.position() == event.position()));
            let (position, revision) = (event.position(), event.revision());
            format!("{position} {} {revision} {} {}", event.stream(), event.recorded_at(), event.payload().len())
        })
        .collect();
    for stream in ["s-0", "s-1", "s-2"] {
        let of_stream = all.iter().filter(|event| event.contains(stream)).count();
        assert_eq!(reader.read_stream(stream, Seek::Beginning).unwrap().count(), of_stream);
        assert_eq!(reader.read_stream_back(stream, Seek::End).unwrap().count(), of_stream);
    }
    let (streams, types) = (reader.streams("").unwrap(), reader.types().unwrap());
    (reader.head(), all, format!("{streams:?}"), format!("{types:?}"))
}
