//! Quantities as the API writes them: `250m`, `0.5`, `128Mi`, `1e3`
//! (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>).

use serde::Deserialize;

/// An amount of something that a pod asks for or a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Quantity {
    thousandths: u128,
}

impl Quantity {
    /// In thousandths: those of a CPU.
    pub(super) fn thousandths(self) -> u64 {
        u64::try_from(self.thousandths).unwrap_or(u64::MAX)
    }

    /// Whole ones, rounded up: bytes, pods.
    pub(super) fn whole(self) -> u64 {
        u64::try_from(self.thousandths.div_ceil(1000)).unwrap_or(u64::MAX)
    }

    fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || digits.len() > 30 || fraction.contains('.') {
            return None;
        }
        let digits: u128 = digits.parse().ok()?;
        // What is left is digits × 10^exponent × 2^binary ones.
        let (exponent, binary) = scale(suffix)?;
        let exponent = exponent + 3 - i32::try_from(fraction.len()).ok()?;
        let ten = 10_u128.checked_pow(exponent.unsigned_abs())?;
        let digits = digits.checked_mul(1 << binary)?;
        let thousandths = if exponent < 0 { digits.div_ceil(ten) } else { digits.checked_mul(ten)? };
        Some(Self { thousandths })
    }
}

/// The powers of ten and of two that a suffix stands for.
fn scale(suffix: &str) -> Option<(i32, u32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        _ => (suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|power: &i32| power.abs() <= 18)?, 0),
    })
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Number(serde_json::Number),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Number(number) => number.to_string(),
        };
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("\"{text}\" is no quantity")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thousandths(text: &str) -> Option<u128> {
        Quantity::parse(text).map(|quantity| quantity.thousandths)
    }

    #[test]
    fn quantities_are_read_in_every_way_in_which_the_api_writes_them() {
        for (text, expected) in [
            ("250m", 250),
            ("0.5", 500),
            ("2", 2000),
            (".5", 500),
            ("1.5Gi", 1_610_612_736_000),
            ("128Mi", 134_217_728_000),
            ("129M", 129_000_000_000),
            ("1e3", 1_000_000),
            ("12E", 12_000_000_000_000_000_000_000),
            ("1500u", 2),
            ("100n", 1),
            ("123456789m", 123_456_789),
        ] {
            assert_eq!(thousandths(text), Some(expected), "{text}");
        }
        assert_eq!(Quantity::parse("1500m").unwrap().whole(), 2);
        assert_eq!(serde_json::from_str::<Quantity>("2").unwrap().thousandths(), 2000);
    }

    #[test]
    fn what_is_no_quantity_is_refused_and_what_is_too_large_does_not_wrap() {
        for text in ["", ".", "-1", "1.2.3", "1Zi", "Mi", "e3", "1e99", &"9".repeat(40)] {
            assert_eq!(thousandths(text), None, "{text}");
        }
        assert_eq!(Quantity::parse("999999E").unwrap().whole(), u64::MAX);
    }
}
