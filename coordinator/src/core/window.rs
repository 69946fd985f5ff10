//! Windows: the parts of the week in which nodes may be begun on, each with a time zone of its own.
//!
//! What is begun has to be able to end inside. Where a clock is changed, the shorter reading counts: a window opens at the
//! later and closes at the earlier of the moments that its times may mean, so nothing is ever begun at a moment that
//! somebody could call outside.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use jiff::civil::{DateTime, Time, Weekday};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Span, Timestamp};
use serde::{Deserialize, Serialize};

/// How many days are looked at: windows are weekly, and a change of the clock may shorten one of them once.
const DAYS_AHEAD: i64 = 16;

/// The time zones that this program was built with: the same on every machine, whatever is installed there.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A part of the week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// The days on which it opens.
    pub days: Vec<Day>,
    /// When it opens.
    pub from: TimeOfDay,
    /// When it closes, on the following day where that is not after `from`.
    pub to: TimeOfDay,
    /// Where these are times of day.
    pub time_zone: Zone,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// A time of day in whole minutes, from 00:00 to 23:59.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay(Time);

/// A time zone of the IANA database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(TimeZone);

/// A text that is none of what a window is made of: what it is, and what would be allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WindowError(String);

/// From when to when nodes may be begun on. Windows that touch are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The first moment.
    pub opens: Timestamp,
    /// The first moment after it.
    pub closes: Timestamp,
    /// Of the window that opens it.
    pub zone: Zone,
}

/// Why nothing may be begun now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shut {
    /// How long what is due is expected to take.
    pub takes: SignedDuration,
    /// What is open now and has too little time left.
    pub ending: Option<Opening>,
    /// The next one that is long enough; `None` where none is.
    pub next: Option<Opening>,
}

impl Day {
    /// Every one, as weeks go.
    pub const ALL: [Self; 7] = [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];

    /// `sat`, as documents have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mon => "mon",
            Self::Tue => "tue",
            Self::Wed => "wed",
            Self::Thu => "thu",
            Self::Fri => "fri",
            Self::Sat => "sat",
            Self::Sun => "sun",
        }
    }

    fn of(weekday: Weekday) -> Self {
        match weekday {
            Weekday::Monday => Self::Mon,
            Weekday::Tuesday => Self::Tue,
            Weekday::Wednesday => Self::Wed,
            Weekday::Thursday => Self::Thu,
            Weekday::Friday => Self::Fri,
            Weekday::Saturday => Self::Sat,
            Weekday::Sunday => Self::Sun,
        }
    }
}

impl FromStr for Day {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        Self::ALL.into_iter().find(|day| day.name() == text).ok_or_else(|| {
            WindowError(format!("\"{text}\" is no day: allowed are {}", Self::ALL.map(Self::name).join(", ")))
        })
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = WindowError;

    fn try_from(text: String) -> Result<Self, WindowError> {
        let number = |digits: &str, most: i8| {
            let two = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<i8>().ok().filter(|number| two && *number <= most)
        };
        let time = text
            .split_once(':')
            .and_then(|(hour, minute)| Time::new(number(hour, 23)?, number(minute, 59)?, 0, 0).ok());
        time.map(Self).ok_or_else(|| {
            WindowError(format!(
                "\"{text}\" is no time of day: allowed are 00:00, which is midnight, to 23:59, such as 22:00"
            ))
        })
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0.hour(), self.0.minute())
    }
}

impl TryFrom<String> for Zone {
    type Error = WindowError;

    fn try_from(text: String) -> Result<Self, WindowError> {
        ZONES.get(&text).map(Self).map_err(|_| {
            WindowError(format!(
                "\"{text}\" is no time zone that this version knows: allowed are names of the IANA time zone database, \
                 such as Europe/Berlin or UTC"
            ))
        })
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.name().to_owned()
    }
}

impl Zone {
    /// `Europe/Berlin`
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// `Sat 2026-11-28 22:00 Europe/Berlin`
    pub fn say(&self, moment: Timestamp) -> String {
        format!("{} {}", moment.to_zoned(self.0.clone()).strftime("%a %Y-%m-%d %H:%M"), self.name())
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<&str> = self.days.iter().map(|day| day.name()).collect();
        write!(f, "{} {}–{} {}", days.join(", "), self.from, self.to, self.time_zone.name())
    }
}

impl Window {
    /// What opens on a day, if it is one of the window's and the clocks leave anything of it.
    fn opening_on(&self, day: DateTime) -> Option<Opening> {
        if !self.days.contains(&Day::of(day.weekday())) {
            return None;
        }
        let next = if self.to > self.from { day } else { day.checked_add(Span::new().days(1)).ok()? };
        let moment = |day: DateTime, time: TimeOfDay| {
            self.time_zone.0.to_ambiguous_timestamp(day.date().to_datetime(time.0))
        };
        let opens = moment(day, self.from).later().ok()?;
        let closes = moment(next, self.to).earlier().ok()?;
        (opens < closes).then(|| Opening { opens, closes, zone: self.time_zone.clone() })
    }
}

impl Opening {
    /// From when on something that takes so long may be begun, where it can end inside.
    fn begins(&self, now: Timestamp, takes: SignedDuration) -> Option<Timestamp> {
        let from = self.opens.max(now);
        from.checked_add(takes).ok().filter(|end| *end <= self.closes).map(|_| from)
    }

    /// How long it is open.
    pub fn lasts(&self) -> SignedDuration {
        self.opens.duration_until(self.closes)
    }
}

/// Everything that opens in the next two weeks and has not closed yet, the first one first.
pub fn openings(windows: &[Window], now: Timestamp) -> Vec<Opening> {
    let mut all: Vec<Opening> = Vec::new();
    for window in windows {
        let today = now.to_zoned(window.time_zone.0.clone()).datetime();
        // What opened yesterday may still be open.
        let days = (-1..=DAYS_AHEAD).filter_map(|ahead| today.checked_add(Span::new().days(ahead)).ok());
        all.extend(days.filter_map(|day| window.opening_on(day)).filter(|opening| opening.closes > now));
    }
    all.sort_by_key(|opening| (opening.opens, opening.closes));
    let mut merged: Vec<Opening> = Vec::new();
    for opening in all {
        match merged.last_mut() {
            Some(last) if opening.opens <= last.closes => last.closes = last.closes.max(opening.closes),
            _ => merged.push(opening),
        }
    }
    merged
}

/// When something that takes so long can be begun next, and in which opening; at once where there is no window.
///
/// # Errors
/// Where no window of the next two weeks is long enough.
pub fn next_begin(
    windows: &[Window],
    now: Timestamp,
    takes: SignedDuration,
) -> Result<(Timestamp, Option<Opening>), Shut> {
    if windows.is_empty() {
        return Ok((now, None));
    }
    let openings = openings(windows, now);
    let fits = |opening: &Opening| Some((opening.begins(now, takes)?, Some(opening.clone())));
    openings.iter().find_map(fits).ok_or(Shut { takes, ending: None, next: None })
}

/// Why something that takes so long may not be begun now; `None` where it may.
pub fn shut(windows: &[Window], now: Timestamp, takes: SignedDuration) -> Option<Shut> {
    match next_begin(windows, now, takes) {
        Ok((begins, _)) if begins == now => None,
        Ok((_, next)) => {
            let ending = openings(windows, now).into_iter().find(|opening| opening.opens <= now);
            Some(Shut { takes, ending, next })
        }
        Err(shut) => Some(shut),
    }
}

impl fmt::Display for Shut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let takes = minutes(self.takes);
        match (&self.ending, &self.next) {
            (_, None) => write!(
                f,
                "no window is long enough: the next node is expected to take {takes}; widen spec.windows"
            ),
            (None, Some(next)) => {
                write!(f, "waits for the window: opens {}", next.zone.say(next.opens))
            }
            (Some(ending), Some(next)) => write!(
                f,
                "waits for the next window: the next node is expected to take {takes}, and what is open now closes {}; \
                 opens {}",
                ending.zone.say(ending.closes),
                next.zone.say(next.opens)
            ),
        }
    }
}

/// `45 min`, `1 h 5 min`; never less than a minute.
pub fn minutes(duration: SignedDuration) -> String {
    let whole = (duration.as_secs().max(1) + 59) / 60;
    match (whole / 60, whole % 60) {
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests;
