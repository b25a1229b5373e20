//! Numbers as people read them: counts with their unit, bytes in powers of 1024, times.

use std::time::Duration;

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// So many of these.
    Of(&'static str),
    /// The bare value of a setting.
    Setting,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Parts of a hundred.
    Percent,
}

impl Unit {
    /// The unit's name in JSON; empty for a bare value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Of(things) => things,
            Self::Setting => "",
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::Percent => "percent",
        }
    }

    /// The number with its unit.
    #[must_use]
    pub fn show(self, number: f64) -> String {
        match self {
            Self::Of(things) => match plain(number).as_str() {
                "1" => format!("1 {}", things.strip_suffix('s').unwrap_or(things)),
                number => format!("{number} {things}"),
            },
            Self::Setting => plain(number),
            Self::Bytes => bytes(number),
            Self::Seconds => seconds(number),
            Self::Percent => format!("{number:.1} %"),
        }
    }
}

/// Without a fraction where there is none.
#[must_use]
pub fn plain(number: f64) -> String {
    if number.fract() == 0.0 { format!("{number:.0}") } else { format!("{number:.1}") }
}

/// Bytes in the largest power of 1024 that leaves a whole part.
#[must_use]
pub fn bytes(number: f64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if number < 1024.0 {
        return format!("{} bytes", plain(number));
    }
    let mut scaled = number;
    let mut name = "";
    for unit in UNITS {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        name = unit;
    }
    format!("{scaled:.1} {name}")
}

/// Whole seconds from one minute on; tenths below.
#[must_use]
pub fn seconds(number: f64) -> String {
    match Duration::try_from_secs_f64(number) {
        Ok(time) if time < Duration::from_mins(1) => format!("{} s", plain(number)),
        Ok(time) => humantime::format_duration(Duration::from_secs(time.as_secs())).to_string(),
        Err(_) => format!("{number} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_have_their_unit() {
        assert_eq!(Unit::Of("packets").show(312.0), "312 packets");
        assert_eq!(Unit::Of("packets").show(1.0), "1 packet");
        assert_eq!(Unit::Setting.show(60.0), "60");
        assert_eq!(Unit::Percent.show(12.345), "12.3 %");
        assert_eq!(Unit::Bytes.show(34_359_738_368.0), "32.0 GiB");
        assert_eq!(Unit::Bytes.show(1023.0), "1023 bytes");
        assert_eq!(Unit::Bytes.show(1024.0), "1.0 KiB");
        assert_eq!(Unit::Seconds.show(1.25), "1.2 s");
        assert_eq!(Unit::Seconds.show(131.9), "2m 11s");
        assert_eq!(Unit::Seconds.show(f64::INFINITY), "inf s");
    }
}
