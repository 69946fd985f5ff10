//! Times and durations as people and programs read them.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo, Timestamp};

/// A moment of a message, whose 0 means never.
pub fn moment(unix_ms: u64) -> Option<Timestamp> {
    let ms = i64::try_from(unix_ms).ok().filter(|&ms| ms > 0)?;
    Timestamp::from_millisecond(ms).ok()
}

/// `2026-01-31T12:00:00Z`, whole seconds; empty for never.
pub fn clock(moment: Option<Timestamp>) -> String {
    moment.map(|moment| moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
}

/// Milliseconds of a message as seconds.
pub fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

/// `0.45 s`, `61.2 s`, `12 min 5 s`
pub fn span(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.2} s");
    }
    if seconds < 120.0 {
        return format!("{seconds:.1} s");
    }
    let whole = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    format!("{} min {} s", whole / 60, whole % 60)
}

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a duration of at least 1 s: write it with its unit, such as 90s, 10m or 1h")]
pub struct DurationError {
    text: String,
}

/// Whole seconds from `90s`, `10m`, `1h 30m`.
pub fn parse_seconds(text: &str) -> Result<u32, DurationError> {
    text.parse::<Span>()
        .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()))
        .ok()
        .filter(|duration| duration.subsec_nanos() == 0)
        .and_then(|duration| u32::try_from(duration.as_secs()).ok())
        .filter(|&seconds| seconds > 0)
        .ok_or_else(|| DurationError { text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_with_its_unit() {
        assert_eq!(parse_seconds("90s"), Ok(90));
        assert_eq!(parse_seconds("10m"), Ok(600));
        assert_eq!(parse_seconds("1h 30m"), Ok(5400));
        assert_eq!(parse_seconds("8d"), Ok(8 * 24 * 3600));
        for text in ["", "10", "0s", "-1m", "500ms", "10 parsecs", "200000h h"] {
            assert!(parse_seconds(text).is_err(), "{text:?} parsed");
        }
    }

    #[test]
    fn a_moment_is_utc_in_rfc_3339_and_zero_is_never() {
        assert_eq!(clock(moment(1_767_268_800_123)), "2026-01-01T12:00:00Z");
        assert_eq!(moment(0), None);
    }

    #[test]
    fn a_span_is_as_fine_as_it_is_short() {
        assert_eq!(span(0.447), "0.45 s");
        assert_eq!(span(61.23), "61.2 s");
        assert_eq!(span(725.9), "12 min 5 s");
    }
}
