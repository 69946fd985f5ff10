//! Which of two builds of a package is the newer one, as its package manager sees it: `1.30.4-1.10` comes after `1.30.4-1.9`.
//!
//! dpkg's order is that of Debian's policy (section 5.6.12), rpm's that of its own `rpmvercmp`.

use std::cmp::Ordering;

use liftlock_proto::packages::PackageManager;

/// How two versions of one package stand to each other. Programs that no package owns have no builds, only versions.
pub(super) fn compare(manager: PackageManager, one: &str, other: &str) -> Ordering {
    match manager {
        PackageManager::Apt => by_dpkg(one, other),
        PackageManager::Dnf => by_rpm(one, other),
        PackageManager::Files => Ordering::Equal,
    }
}

/// `[epoch:]upstream[-revision]`
fn by_dpkg(one: &str, other: &str) -> Ordering {
    let split = |version| {
        let (epoch, rest) = epoch(version);
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        [epoch, upstream, revision]
    };
    let parts = split(one).into_iter().zip(split(other));
    parts.map(|(one, other)| dpkgs_part(one, other)).fold(Ordering::Equal, Ordering::then)
}

/// `[epoch:]version-release`
fn by_rpm(one: &str, other: &str) -> Ordering {
    let split = |version| {
        let (epoch, rest) = epoch(version);
        let (version, release) = rest.split_once('-').unwrap_or((rest, ""));
        [epoch, version, release]
    };
    let parts = split(one).into_iter().zip(split(other));
    parts.map(|(one, other)| rpms_part(one, other)).fold(Ordering::Equal, Ordering::then)
}

/// Without one it is 0.
fn epoch(version: &str) -> (&str, &str) {
    version.split_once(':').unwrap_or(("0", version))
}

fn dpkgs_part(mut one: &str, mut other: &str) -> Ordering {
    while !(one.is_empty() && other.is_empty()) {
        let ((of_one, rest_of_one), (of_other, rest_of_other)) = (dpkgs_next(one), dpkgs_next(other));
        if of_one != of_other {
            return of_one.cmp(&of_other);
        }
        (one, other) = (rest_of_one, rest_of_other);
    }
    Ordering::Equal
}

/// What comes before a number, letter by letter, and the number; and what is left. A tilde comes before the end, the end
/// before letters, and letters before everything else.
fn dpkgs_next(text: &str) -> ((Vec<i64>, Number<'_>), &str) {
    let weight = |letter| match letter {
        '~' => -1,
        letter if char::is_ascii_alphabetic(&letter) => i64::from(u32::from(letter)),
        letter => i64::from(u32::from(letter)) + 256,
    };
    let (letters, rest) = leading(text, |letter| !letter.is_ascii_digit());
    let (digits, rest) = leading(rest, |letter| letter.is_ascii_digit());
    ((letters.chars().map(weight).chain([0]).collect(), Number::of(digits)), rest)
}

fn rpms_part(mut one: &str, mut other: &str) -> Ordering {
    loop {
        let ((of_one, rest_of_one), (of_other, rest_of_other)) = (rpms_next(one), rpms_next(other));
        if of_one != of_other || of_one == Segment::End {
            return of_one.cmp(&of_other);
        }
        (one, other) = (rest_of_one, rest_of_other);
    }
}

/// What rpm compares at once, in its order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment<'a> {
    /// Comes before the version without it.
    Tilde,
    End,
    /// Comes after the version without it, and before any other that goes on.
    Caret,
    Letters(&'a str),
    Number(Number<'a>),
}

/// The first segment, and what is left. Everything else only separates.
fn rpms_next(text: &str) -> (Segment<'_>, &str) {
    let text =
        text.trim_start_matches(|letter: char| !letter.is_ascii_alphanumeric() && !"~^".contains(letter));
    if let Some(rest) = text.strip_prefix('~') {
        return (Segment::Tilde, rest);
    }
    if let Some(rest) = text.strip_prefix('^') {
        return (Segment::Caret, rest);
    }
    match leading(text, |letter| letter.is_ascii_digit()) {
        ("", _) => match leading(text, |letter| letter.is_ascii_alphabetic()) {
            ("", rest) => (Segment::End, rest),
            (letters, rest) => (Segment::Letters(letters), rest),
        },
        (digits, rest) => (Segment::Number(Number::of(digits)), rest),
    }
}

/// A number however long: without the zeros in front, the longer one is the larger.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Number<'a> {
    length: usize,
    digits: &'a str,
}

impl<'a> Number<'a> {
    fn of(digits: &'a str) -> Self {
        let digits = digits.trim_start_matches('0');
        Self { length: digits.len(), digits }
    }
}

/// Splits off the letters at the beginning for which something is so.
fn leading(text: &str, so: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|letter| !so(letter)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MANAGERS: [PackageManager; 2] = [PackageManager::Apt, PackageManager::Dnf];

    /// Every one of them comes before all that follow it.
    fn rise(manager: PackageManager, versions: &[&str]) {
        for (at, one) in versions.iter().enumerate() {
            for (place, other) in versions.iter().enumerate() {
                assert_eq!(compare(manager, one, other), at.cmp(&place), "{one} and {other}");
            }
        }
    }

    #[test]
    fn builds_stand_in_the_order_of_debians_policy() {
        rise(
            PackageManager::Apt,
            &["1.30.4-00", "1.30.4-1.1", "1.30.4-1.9", "1.30.4-1.10", "1.30.4-2.1", "1.30.10-1.1", "1:1.0-1"],
        );
        // The policy's own example.
        rise(PackageManager::Apt, &["~~", "~~a", "~", "", "a"]);
        rise(
            PackageManager::Apt,
            &["1.31.0~rc.1-1", "1.31.0-1", "1.31.0-1+b1", "1.31.0a-1", "1.31.0+1-1", "1.31.0.1-1"],
        );
        assert_eq!(compare(PackageManager::Apt, "0:1.30.4-01.1", "1.30.4-1.1"), Ordering::Equal);
        assert_eq!(compare(PackageManager::Apt, "1.30.4", "1.30.4-0"), Ordering::Equal);
    }

    #[test]
    fn builds_stand_in_the_order_of_rpm() {
        rise(
            PackageManager::Dnf,
            &[
                "1.30.4-0",
                "1.30.4-150500.1.1",
                "1.30.4-150500.1.9",
                "1.30.4-150500.1.10",
                "1.30.4-150600.1.1",
                "1.30.10-0",
                "1:1.0-1",
            ],
        );
        rise(PackageManager::Dnf, &["1.0~rc1-1", "1.0~rc2-1", "1.0-1", "1.0^git1-1", "1.0a-1", "1.0.1-1"]);
        // Whatever separates is one as the other.
        assert_eq!(compare(PackageManager::Dnf, "1.30.4-1_1", "1.30.4-1.01"), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn of_two_builds_the_one_with_the_larger_number_is_the_newer_one(one in 0_u32.., other in 0_u32..) {
            for manager in MANAGERS {
                let version = |build: u32| format!("1.30.4-1.{build}");
                prop_assert_eq!(compare(manager, &version(one), &version(other)), one.cmp(&other));
            }
        }

        #[test]
        fn whatever_versions_are_they_stand_in_one_order(versions in prop::array::uniform3("[0-2a.~^+:-]{0,6}")) {
            let [one, other, third] = &versions;
            for manager in MANAGERS {
                let order = |one, other| compare(manager, one, other);
                prop_assert_eq!(order(one, one), Ordering::Equal);
                prop_assert_eq!(order(one, other), order(other, one).reverse());
                if order(one, other).is_le() && order(other, third).is_le() {
                    prop_assert!(order(one, third).is_le());
                }
            }
        }
    }
}
