//! From the programs' clock to the time of day.
//!
//! Records carry CLOCK_MONOTONIC. One offset, taken at the start, turns that into UTC: a clock that is set later
//! moves no event, and times of one recording keep their distances. Pure: the offset is passed in.

use std::time::{Duration, UNIX_EPOCH};

/// The last second that a four-digit year has.
const SECOND_MAX: u64 = 253_402_300_799;

/// Writes times; remembers the text of the last second, since many events share it.
#[derive(Clone, Debug)]
pub struct Clock {
    offset_ns: i64,
    second: Option<u64>,
    text: String,
}

/// One moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment<'a> {
    /// `2026-11-20T19:26:02`, UTC.
    pub seconds: &'a str,
    /// The nanoseconds after that.
    pub nanos: u32,
}

impl Clock {
    /// `offset_ns` is what CLOCK_REALTIME is ahead of CLOCK_MONOTONIC.
    #[must_use]
    pub const fn new(offset_ns: i64) -> Self {
        Self { offset_ns, second: None, text: String::new() }
    }

    /// The moment of a time that the programs took.
    pub fn at(&mut self, monotonic_ns: u64) -> Moment<'_> {
        let unix_ns = monotonic_ns.saturating_add_signed(self.offset_ns);
        let second = (unix_ns / 1_000_000_000).min(SECOND_MAX);
        if self.second != Some(second) {
            self.second = Some(second);
            let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(second)).to_string();
            text.trim_end_matches('Z').clone_into(&mut self.text);
        }
        Moment { seconds: &self.text, nanos: u32::try_from(unix_ns % 1_000_000_000).unwrap_or(0) }
    }
}

impl Moment<'_> {
    /// The time of day without the date.
    #[must_use]
    pub fn time_of_day(&self) -> &str {
        self.seconds.split_once('T').map_or(self.seconds, |(_, time)| time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_makes_it_the_time_of_day() {
        let mut clock = Clock::new(1_700_000_000_000_000_000);
        assert_eq!(clock.at(0), Moment { seconds: "2023-11-14T22:13:20", nanos: 0 });
        assert_eq!(clock.at(1_000_000_007), Moment { seconds: "2023-11-14T22:13:21", nanos: 7 });
        assert_eq!(clock.at(999_999_999), Moment { seconds: "2023-11-14T22:13:20", nanos: 999_999_999 });
        assert_eq!(clock.at(0).time_of_day(), "22:13:20");
    }

    #[test]
    fn no_time_is_out_of_range() {
        for (offset, time) in [(i64::MAX, u64::MAX), (i64::MIN, 0), (i64::MIN, u64::MAX), (0, u64::MAX)] {
            assert_eq!(Clock::new(offset).at(time).seconds.len(), "2023-11-14T22:13:20".len(), "{offset} {time}");
        }
    }
}
