//! How many backups a node keeps, for how long, and within how many bytes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::v1;

/// What is kept. A backup goes where any limit that is set is exceeded; the newest whole one always stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// So many whole ones.
    pub keep: Option<u32>,
    /// None that was taken longer ago.
    pub age: Option<Age>,
    /// The newest that fit.
    pub size: Option<Size>,
}

/// A time, in whole seconds, written as `30d`, `12h`, `90m` or `45s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Age(pub Duration);

/// Bytes, written as `5GiB`, `500MiB`, `64KiB` or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

/// A text that is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not {what}")]
pub struct AmountError {
    text: String,
    what: &'static str,
}

const AGES: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];

/// A whole number and a unit.
fn amount(text: &str, units: &[(&str, u64)], what: &'static str) -> Result<u64, AmountError> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = text.strip_suffix(unit).and_then(|number| number.parse::<u64>().ok());
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let amount = number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    amount.ok_or_else(|| AmountError { text: text.to_owned(), what })
}

/// In the largest unit in which it is a whole number.
fn written(amount: u64, units: &[(&str, u64)]) -> String {
    let whole = units.iter().find(|(_, factor)| amount >= *factor && amount.is_multiple_of(*factor));
    whole.map_or_else(|| amount.to_string(), |(unit, factor)| format!("{}{unit}", amount / factor))
}

impl FromStr for Age {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let what = "a time: write a whole number and its unit, such as 30d, 12h or 90m";
        amount(text, &AGES, what).map(|seconds| Self(Duration::from_secs(seconds)))
    }
}

impl FromStr for Size {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        amount(text, &SIZES, "a size: write a whole number and its unit, such as 5GiB or 500MiB").map(Self)
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => f.pad("0s"),
            seconds => f.pad(&written(seconds, &AGES)),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&written(self.0, &SIZES))
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = AmountError;

            fn try_from(text: String) -> Result<Self, AmountError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(amount: $name) -> Self {
                amount.to_string()
            }
        }
    )*};
}

as_text!(Age, Size);

impl From<Retention> for v1::Retention {
    fn from(Retention { keep, age, size }: Retention) -> Self {
        Self { keep, older_than_seconds: age.map(|age| age.0.as_secs()), max_bytes: size.map(|size| size.0) }
    }
}

impl From<v1::Retention> for Retention {
    fn from(message: v1::Retention) -> Self {
        Self {
            keep: message.keep,
            age: message.older_than_seconds.map(|seconds| Age(Duration::from_secs(seconds))),
            size: message.max_bytes.map(Size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_a_whole_number_and_a_unit_and_is_written_as_it_is_read() {
        for text in ["30d", "12h", "90m", "45s"] {
            assert_eq!(text.parse::<Age>().unwrap().to_string(), text);
        }
        assert_eq!("48h".parse::<Age>().unwrap().to_string(), "2d");
        for text in ["5GiB", "500MiB", "3TiB", "1023"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!("0".parse(), Ok(Size(0)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "d", "30", "-1d", "1.5d", "1 d", "30days", "300000000000000000d"] {
            assert!(text.parse::<Age>().is_err(), "{text:?} parsed");
        }
        for text in ["", "GiB", "5GB", "5gib", "-1", "99999999999TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text:?} parsed");
        }
    }
}
