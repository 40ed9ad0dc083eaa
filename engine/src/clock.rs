//! The writer's clock: the wall clock, or what the processor's tick counter adds to a look at it less than a millisecond
//! ago. Asking the system for each single append would cost more than hashing its names.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::options::{Clock, SystemClock};

/// How long one look at the wall clock serves. Whatever happens to the tick counter (another processor, a virtual
/// machine moved, a power state), the time told is not off by more than this.
const WINDOW: Duration = Duration::from_millis(1);
/// How far a look may fall behind what was told before without being a step of the wall clock: two clocks never agree.
const TOLERANCE: u64 = 10_000;
const NANOS: u32 = 32;

/// Nanoseconds since 1970 UTC, for one caller.
#[derive(Debug)]
pub(crate) struct WriterClock {
    /// The caller's own clock is asked every time.
    own: Option<Arc<dyn Clock>>,
    ticks: Ticks,
}

impl WriterClock {
    pub(crate) fn new(own: Option<Arc<dyn Clock>>) -> Self {
        Self { own, ticks: Ticks::start() }
    }

    #[inline]
    pub(crate) fn now(&mut self) -> u64 {
        match &self.own {
            Some(clock) => clock.now(),
            None => self.ticks.now(tick_count()),
        }
    }
}

#[derive(Debug)]
struct Ticks {
    /// The last look at the wall clock, and the ticks then.
    wall: u64,
    at: u64,
    /// What a tick is worth: nanoseconds, times 2^32.
    scale: u64,
    /// For so many ticks the last look serves; 0 until it is known what a tick is worth.
    window: u64,
    /// Where measuring a tick began.
    measured_from: (Instant, u64),
    told: u64,
}

impl Ticks {
    fn start() -> Self {
        let ticks = tick_count();
        Self { wall: 0, at: ticks, scale: 0, window: 0, measured_from: (Instant::now(), ticks), told: 0 }
    }

    #[inline]
    fn now(&mut self, ticks: u64) -> u64 {
        // A counter that runs backwards shows as one that is far ahead.
        let passed = ticks.wrapping_sub(self.at);
        if passed >= self.window {
            return self.look(ticks, SystemClock.now(), Instant::now());
        }
        self.told = self.wall + ((passed * self.scale) >> NANOS);
        self.told
    }

    #[cold]
    fn look(&mut self, ticks: u64, wall: u64, instant: Instant) -> u64 {
        self.measure(ticks, instant);
        let behind = self.told.saturating_sub(wall);
        (self.at, self.wall) = (ticks, if behind < TOLERANCE { wall.max(self.told) } else { wall });
        self.told = self.wall;
        self.told
    }

    /// Compares the ticks with the steady clock, which nobody sets.
    fn measure(&mut self, ticks: u64, instant: Instant) {
        let (from, ticks_then) = self.measured_from;
        let elapsed = instant.saturating_duration_since(from);
        if elapsed < WINDOW {
            return;
        }
        self.measured_from = (instant, ticks);
        let passed = ticks.wrapping_sub(ticks_then);
        let scale = (elapsed.as_nanos() << NANOS).checked_div(u128::from(passed)).unwrap_or(0);
        let scale = u64::try_from(scale).unwrap_or(0);
        // Two measurements must agree within a hundredth before ticks are trusted.
        let agrees = scale > 0 && scale.abs_diff(self.scale) <= scale / 100;
        let window =
            u64::try_from((WINDOW.as_nanos() << NANOS).checked_div(u128::from(scale)).unwrap_or(0)).unwrap_or(0);
        // The product of ticks and scale stays below 2^64.
        self.window = if agrees { window.min(u64::MAX / scale) } else { 0 };
        self.scale = scale;
    }
}

/// The processor's tick counter; 0 where none is known, which is as good as one that never agrees.
#[inline]
fn tick_count() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 processor has the instruction, it only reads a counter, and systems let programs use it
        // (those that forbid it answer with a signal, and their own clocks would not work either).
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter of three ticks a nanosecond that has been measured twice.
    fn measured() -> (Ticks, Instant) {
        let from = Instant::now();
        let mut ticks = Ticks { wall: 0, at: 0, scale: 0, window: 0, measured_from: (from, 0), told: 0 };
        for millis in [2, 4] {
            ticks.look(millis * 3_000_000, 1_000_000_000, from + Duration::from_millis(millis));
        }
        (ticks, from)
    }

    #[test]
    fn ticks_add_to_the_last_look() {
        let (mut ticks, _) = measured();
        // A third of a nanosecond is not told exactly.
        assert!((1_000_000_999..=1_000_001_000).contains(&ticks.now(12_000_000 + 3_000)));
        assert!((1_000_999_665..=1_000_999_667).contains(&ticks.now(12_000_000 + 2_999_000)));
    }

    #[test]
    fn a_look_serves_for_a_millisecond_and_never_backwards() {
        let (mut ticks, _) = measured();
        let wall = || SystemClock.now();
        for far in [12_000_000 + 3_000_100, 11_999_999, 0, u64::MAX] {
            let (before, told) = (wall(), ticks.now(far));
            assert!(before <= told && told <= wall(), "asked at tick {far}");
            ticks = measured().0;
        }
    }

    #[test]
    fn a_counter_that_changes_its_pace_is_not_trusted() {
        let (mut ticks, from) = measured();
        ticks.look(15_000_000, 1_000_000_000, from + Duration::from_millis(7));
        assert_eq!(ticks.window, 0);
        // The new pace is, once it holds.
        ticks.look(18_000_000, 1_000_000_000, from + Duration::from_millis(10));
        assert!(ticks.window > 0);
        // One that stands still never is.
        ticks.look(18_000_000, 1_000_000_000, from + Duration::from_millis(20));
        ticks.look(18_000_000, 1_000_000_000, from + Duration::from_millis(30));
        assert_eq!(ticks.window, 0);
    }

    #[test]
    fn a_step_of_the_wall_clock_is_told_and_a_disagreement_is_not() {
        let (mut ticks, from) = measured();
        let told = ticks.now(12_000_000 + 30_000);
        assert_eq!(ticks.look(15_000_000, 1_000_009_000, from + Duration::from_millis(5)), told);
        assert_eq!(ticks.look(18_000_000, 900_000_000, from + Duration::from_millis(6)), 900_000_000);
    }

    #[test]
    fn follows_the_wall_clock() {
        let mut clock = WriterClock::new(None);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(20) {
            let (before, told) = (SystemClock.now(), clock.now());
            let after = SystemClock.now();
            // Half a millisecond for a clock that is being corrected meanwhile.
            assert!(told + 500_000 > before && told < after + 500_000, "{before} {told} {after}");
        }
    }
}
