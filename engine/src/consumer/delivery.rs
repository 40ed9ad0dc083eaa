//! An event in somebody's hands, and the answer for it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use crate::{Event, Position};

/// An event that a consumer handed out. It is handed out again unless it is acknowledged: by [`super::Consumer::ack`], or
/// in the batch of what it causes by [`crate::Batch::acknowledge`].
#[derive(Clone, Debug)]
pub struct Delivery {
    pub(super) shared: Arc<Shared>,
    pub(super) event: Event,
    pub(super) ticket: u64,
    pub(super) generation: u64,
    pub(super) attempt: u32,
    pub(super) lane: usize,
}

impl Delivery {
    /// The event.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Which try this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Number of the lane that it was handed out for, from 0.
    pub fn lane(&self) -> usize {
        self.lane
    }

    /// That of the consumer when it was handed out: larger at each opening and reset.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn acknowledgement(&self) -> Acknowledgement {
        Acknowledgement {
            shared: self.shared.clone(),
            position: self.event.position(),
            ticket: self.ticket,
            generation: self.generation,
        }
    }
}

impl Deref for Delivery {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.event
    }
}

/// That an event which was handed out is finished.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledgement {
    pub(super) shared: Arc<Shared>,
    pub(super) position: Position,
    pub(super) ticket: u64,
    pub(super) generation: u64,
}

/// What becomes of an event that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It will be handed out again after this pause; later events of its stream wait for it.
    Again(Duration),
    /// It was tried often enough and is put aside, and so are later events of its stream.
    Parked,
}
