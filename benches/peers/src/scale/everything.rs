//! All events of a store at once, in the orders in which the tables of the peers are filled.

use super::events::{CUSTOMERS, Names, REGIONS, Shape, TYPES};
use crate::workload::{EventIn, Payloads};

/// See the module.
pub struct Everything<'a> {
    shape: Shape,
    names: &'a Names,
    payloads: &'a Payloads,
    revisions: Vec<u32>,
}

impl<'a> Everything<'a> {
    /// Counts the revisions.
    pub fn new(shape: Shape, names: &'a Names, payloads: &'a Payloads) -> Self {
        let mut heads = vec![0u32; shape.streams as usize];
        let revision = |number| {
            let head = &mut heads[shape.draw(number).stream as usize];
            *head += 1;
            *head - 1
        };
        Self { shape, names, payloads, revisions: (0..shape.events).map(revision).collect() }
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.revisions.len()
    }

    /// The event of this number.
    pub fn event(&self, number: u32) -> EventIn<'_> {
        let draw = self.shape.draw(number);
        EventIn {
            id: self.shape.id(number),
            stream: self.names.stream(draw.stream),
            revision: u64::from(self.revisions[number as usize]),
            first_in_batch: true,
            event_type: TYPES[usize::from(draw.event_type)],
            payload: self.payloads.of(number),
        }
    }

    /// The tags of the event of this number.
    pub fn tags(&self, number: u32) -> [&'a str; 2] {
        let draw = self.shape.draw(number);
        [self.names.customer(draw.customer), Names::region(draw.region)]
    }

    /// All numbers in the order of the ids.
    pub fn by_id(&self) -> Vec<u32> {
        let mut ids: Vec<(u128, u32)> =
            (0..self.shape.events).map(|number| (u128::from_be_bytes(self.shape.id(number)), number)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, number)| number).collect()
    }

    /// All numbers by stream and, in a stream, by revision.
    pub fn by_stream(&self) -> Vec<u32> {
        self.grouped(self.shape.streams, |number| self.shape.draw(number).stream).0
    }

    /// Types and tags in the order of their names, with the numbers of their events.
    pub fn keys(&self) -> Vec<(String, Vec<u32>)> {
        let mut keys = Vec::new();
        let types = self.grouped(TYPES.len() as u32, |number| u32::from(self.shape.draw(number).event_type));
        let customers = self.grouped(CUSTOMERS, |number| self.shape.draw(number).customer);
        let regions = self.grouped(u32::from(REGIONS), |number| u32::from(self.shape.draw(number).region));
        let name_type = |group: usize| TYPES[group].to_owned();
        let name_customer = |group: usize| self.names.customer(group as u32).to_owned();
        let name_region = |group: usize| Names::region(group as u8).to_owned();
        let kinds: [(&(Vec<u32>, Vec<u32>), &dyn Fn(usize) -> String); 3] =
            [(&types, &name_type), (&customers, &name_customer), (&regions, &name_region)];
        for ((numbers, starts), name) in kinds {
            for (group, bounds) in starts.windows(2).enumerate() {
                keys.push((name(group), numbers[bounds[0] as usize..bounds[1] as usize].to_vec()));
            }
        }
        keys
    }

    /// All numbers by group, in their order within a group, and where each group begins.
    fn grouped(&self, groups: u32, group_of: impl Fn(u32) -> u32) -> (Vec<u32>, Vec<u32>) {
        let mut starts = vec![0u32; groups as usize + 1];
        (0..self.shape.events).for_each(|number| starts[group_of(number) as usize + 1] += 1);
        for group in 1..starts.len() {
            starts[group] += starts[group - 1];
        }
        let (mut next, mut numbers) = (starts.clone(), vec![0; self.len()]);
        for number in 0..self.shape.events {
            let at = &mut next[group_of(number) as usize];
            numbers[*at as usize] = number;
            *at += 1;
        }
        (numbers, starts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::events::Ids;

    #[test]
    fn every_order_holds_every_event_once() {
        let shape = Shape { events: 5_000, streams: 500, ids: Ids::V4 };
        let (names, payloads) = (Names::new(shape.streams), Payloads::few(16));
        let all = Everything::new(shape, &names, &payloads);
        assert!(all.by_id().is_sorted_by_key(|number| all.event(*number).id));
        let by_stream = all.by_stream();
        let place = |number: &u32| (all.event(*number).stream, all.event(*number).revision);
        assert!(by_stream.is_sorted_by_key(place));
        let keys = all.keys();
        assert!(keys.is_sorted_by_key(|(name, _)| name.clone()));
        assert_eq!(keys.iter().map(|(_, numbers)| numbers.len()).sum::<usize>(), 3 * 5_000);
        for (name, numbers) in keys {
            for number in numbers {
                assert!(all.event(number).event_type == name || all.tags(number).contains(&name.as_str()));
            }
        }
    }
}
