//! The catalogue: the versions that an operator approves of, those known to be bad, and where a path has to stop.
//!
//! ```toml
//! [[approved]]
//! version = "v1.20.5"
//! notes = "passed the tests of March"   # optional
//! required-stop = true                  # optional
//!
//! [[known-bad]]
//! version = "v1.20.6"
//! why = "kube-proxy loses UDP connections"
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, Range};
use std::str::FromStr;

use liftlock_proto::version::KubernetesVersion;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use toml::Spanned;

/// Where nobody keeps a catalogue: whatever is offered may be raised to.
pub static OPEN: Catalogue = Catalogue { entries: None };

/// What an operator says of versions. Once there is a catalogue, what it does not approve of is not raised to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    entries: Option<BTreeMap<KubernetesVersion, Entry>>,
}

/// What a catalogue says of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// It may be raised to.
    Approved {
        /// For people; empty where there are none.
        notes: String,
        /// No path goes past it.
        required_stop: bool,
    },
    /// It may not.
    KnownBad {
        /// For people, never empty.
        why: String,
    },
}

/// Why a text is no catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {why}")]
pub struct CatalogueError {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What is wrong there, and what would be right.
    pub why: String,
}

/// What a catalogue that somebody else keeps has to be: its SHA-256, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Checksum(String);

/// A text that is no SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no SHA-256: give the 64 hexadecimal digits that `sha256sum` prints")]
pub struct ChecksumError {
    text: String,
}

impl Checksum {
    /// That of a content.
    pub fn of(content: &[u8]) -> Self {
        Self(format!("{:x}", Sha256::digest(content)))
    }
}

impl FromStr for Checksum {
    type Err = ChecksumError;

    fn from_str(text: &str) -> Result<Self, ChecksumError> {
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(ChecksumError { text: text.to_owned() })
        }
    }
}

impl TryFrom<String> for Checksum {
    type Error = ChecksumError;

    fn try_from(text: String) -> Result<Self, ChecksumError> {
        text.parse()
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct File {
    approved: Vec<Approved>,
    known_bad: Vec<KnownBad>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Approved {
    version: Spanned<KubernetesVersion>,
    #[serde(default)]
    notes: String,
    #[serde(default)]
    required_stop: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownBad {
    version: Spanned<KubernetesVersion>,
    why: Spanned<String>,
}

impl Catalogue {
    /// The catalogue in a file's text.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place: an unknown field, no version, a version that stands there twice, a
    /// bad one without a reason.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let file: File = toml::from_str(text)
            .map_err(|error| flaw(text, error.span().unwrap_or_default(), error.message()))?;
        let approved = file.approved.into_iter().map(|Approved { version, notes, required_stop }| {
            Ok((version, Entry::Approved { notes, required_stop }))
        });
        let known_bad = file.known_bad.into_iter().map(|KnownBad { version, why }| {
            if why.get_ref().trim().is_empty() {
                let said =
                    format!("say why {} is bad: plans are refused with these words", version.get_ref());
                return Err(flaw(text, why.span(), &said));
            }
            Ok((version, Entry::KnownBad { why: why.into_inner() }))
        });
        let mut entries = BTreeMap::new();
        for entry in approved.chain(known_bad) {
            let (version, entry) = entry?;
            if entries.insert(*version.get_ref(), entry).is_some() {
                let said = format!("{} stands there twice: leave one of the entries", version.get_ref());
                return Err(flaw(text, version.span(), &said));
            }
        }
        Ok(Self { entries: Some(entries) })
    }

    /// Whether nobody keeps one.
    pub fn is_open(&self) -> bool {
        self.entries.is_none()
    }

    /// What it says of a version.
    pub fn entry(&self, version: KubernetesVersion) -> Option<&Entry> {
        self.entries.as_ref()?.get(&version)
    }

    /// Everything that it says, the oldest version first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (KubernetesVersion, &Entry)> {
        self.entries.iter().flatten().map(|(version, entry)| (*version, entry))
    }

    /// Whether a version may be raised to.
    pub fn allows(&self, version: KubernetesVersion) -> bool {
        self.is_open() || self.entry(version).is_some_and(Entry::is_approved)
    }

    /// Whether no path goes past a version.
    pub fn requires(&self, version: KubernetesVersion) -> bool {
        self.entry(version).is_some_and(Entry::is_required_stop)
    }

    /// The versions between two others that no path from one to the other goes past, the oldest first.
    pub fn required_between(
        &self,
        from: KubernetesVersion,
        to: KubernetesVersion,
    ) -> impl Iterator<Item = KubernetesVersion> {
        let required = self.entries().filter(|(_, entry)| entry.is_required_stop());
        required.map(|(version, _)| version).filter(move |version| from < *version && *version < to)
    }

    /// What it approves of, the oldest first.
    pub fn approved(&self) -> impl DoubleEndedIterator<Item = KubernetesVersion> {
        self.entries().filter(|(_, entry)| entry.is_approved()).map(|(version, _)| version)
    }

    /// The approved versions next to another one, at most one on each side, as far as they are newer than what is there.
    pub fn nearest(
        &self,
        version: KubernetesVersion,
        present: Option<KubernetesVersion>,
    ) -> Vec<KubernetesVersion> {
        let Some(entries) = &self.entries else { return Vec::new() };
        let approved =
            |(version, entry): (&KubernetesVersion, &Entry)| entry.is_approved().then_some(*version);
        let before = entries.range(..version).rev().find_map(approved);
        let after = entries.range((Bound::Excluded(version), Bound::Unbounded)).find_map(approved);
        let newer = |version: &KubernetesVersion| present.is_none_or(|present| *version > present);
        before.into_iter().chain(after).filter(newer).collect()
    }
}

impl Entry {
    fn is_approved(&self) -> bool {
        matches!(self, Self::Approved { .. })
    }

    fn is_required_stop(&self) -> bool {
        matches!(self, Self::Approved { required_stop: true, .. })
    }
}

/// A flaw at a place in the text, which is given in bytes.
fn flaw(text: &str, place: Range<usize>, why: &str) -> CatalogueError {
    let before = text.get(..place.start).unwrap_or(text);
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    CatalogueError { line: before.matches('\n').count() + 1, column, why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = include_str!("../../../deploy/config/catalogue.toml");

    fn version(text: &str) -> KubernetesVersion {
        text.parse().unwrap()
    }

    fn wrong(text: &str) -> (usize, usize, String) {
        let CatalogueError { line, column, why } = Catalogue::parse(text).unwrap_err();
        (line, column, why)
    }

    #[test]
    fn the_catalogue_that_is_delivered_reads_also_with_its_examples_and_says_what_it_means() {
        assert_eq!(Catalogue::parse(TEXT).unwrap().entries().count(), 0);
        let examples: Vec<&str> = TEXT.lines().filter_map(|line| line.strip_prefix('#')).collect();
        let examples: Vec<&str> = examples.into_iter().filter(|line| !line.starts_with(' ')).collect();
        let catalogue = Catalogue::parse(&examples.join("\n")).unwrap();
        assert_eq!(catalogue.entries().count(), 3);
        assert!(catalogue.allows(version("v1.31.2")) && catalogue.requires(version("v1.30.4")));
        assert!(!catalogue.allows(version("v1.31.0")) && !catalogue.allows(version("v1.31.1")));
    }

    #[test]
    fn what_a_catalogue_must_not_hold_is_named_with_line_and_column_and_what_would_be_allowed() {
        let (line, column, why) = wrong("# mine\n[[aproved]]\nversion = \"v1.20.2\"\n");
        assert_eq!((line, column), (2, 3), "{why}");
        assert!(why.contains("`aproved`") && why.contains("`approved` or `known-bad`"), "{why}");

        let (line, column, why) = wrong("[[approved]]\nversion = \"v1.20.2\"\n  required_stop = true\n");
        assert_eq!((line, column), (3, 3), "{why}");
        assert!(why.contains("`required_stop`") && why.contains("`required-stop`"), "{why}");

        let (line, column, why) = wrong("[[known-bad]]\nversion = \"1.20\"\nwhy = \"slow\"\n");
        assert_eq!((line, column), (2, 11), "{why}");
        assert!(why.contains("\"1.20\"") && why.contains("v1.MINOR.PATCH"), "{why}");

        let (line, _, why) = wrong("[[known-bad]]\nversion = \"v1.20.2\"\n");
        assert!(line == 1 && why.contains("`why`"), "{why}");
        let (line, column, why) = wrong("[[known-bad]]\nversion = \"v1.20.2\"\nwhy = \" \"\n");
        assert!((line, column) == (3, 7) && why.contains("v1.20.2"), "{why}");
        let (line, column, why) = wrong("[[approved]]\nversion = \"v1.20.2\"\nrequired-stop = \"yes\"\n");
        assert!((line, column) == (3, 17) && why.contains("boolean"), "{why}");
        let (line, _, why) = wrong("[[approved]\n");
        assert!(line == 1 && !why.is_empty(), "{why}");
    }

    #[test]
    fn a_version_of_which_two_things_are_said_is_refused_at_the_second() {
        let text =
            "[[known-bad]]\nversion = \"v1.20.2\"\nwhy = \"slow\"\n[[approved]]\nversion = \"1.20.2\"\n";
        let (line, column, why) = wrong(text);
        assert!((line, column) == (2, 11) && why.contains("v1.20.2 stands there twice"), "{line} {why}");
        let (line, _, _) =
            wrong("[[approved]]\nversion = \"v1.20.2\"\n[[approved]]\nversion = \"v1.20.2\"\n");
        assert_eq!(line, 4);
    }

    #[test]
    fn a_catalogue_that_approves_of_nothing_allows_nothing_and_none_at_all_allows_everything() {
        let nothing = Catalogue::parse("").unwrap();
        assert!(!nothing.is_open() && !nothing.allows(version("v1.20.2")));
        assert!(OPEN.is_open() && OPEN.allows(version("v1.20.2")));
        assert_eq!(nothing.nearest(version("v1.20.2"), None), []);
    }

    #[test]
    fn the_nearest_approved_versions_are_one_on_each_side_and_newer_than_what_is_there() {
        let approved = |patch| format!("[[approved]]\nversion = \"v1.20.{patch}\"\n");
        let bad = "[[known-bad]]\nversion = \"v1.20.4\"\nwhy = \"slow\"\n".to_owned();
        let catalogue = Catalogue::parse(&[approved(2), approved(3), bad, approved(9)].concat()).unwrap();
        let nearest = |present: Option<&str>| catalogue.nearest(version("v1.20.4"), present.map(version));
        assert_eq!(nearest(None), [version("v1.20.3"), version("v1.20.9")]);
        assert_eq!(nearest(Some("v1.20.3")), [version("v1.20.9")]);
        assert_eq!(nearest(Some("v1.20.9")), []);
    }
}
