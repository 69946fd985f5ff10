//! Kubernetes versions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A released Kubernetes version: `v1.20.2`. Pre-releases are not upgraded to, so they do not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KubernetesVersion {
    /// Always 1 so far.
    pub major: u16,
    /// The number that a raise moves by at most one.
    pub minor: u16,
    /// The patch release.
    pub patch: u16,
}

/// A text that is no released Kubernetes version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a Kubernetes version: write it as v1.MINOR.PATCH, such as v1.20.2")]
pub struct VersionError {
    /// What was given.
    pub text: String,
}

impl KubernetesVersion {
    /// A version from its three numbers.
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// Without the leading `v`, as packages write it: `1.20.2`.
    pub fn bare(self) -> String {
        format!("{}.{}.{}", self.major, self.minor, self.patch)
    }

    /// `v1.20`, the name of a minor release.
    pub fn minor_name(self) -> String {
        format!("v{}.{}", self.major, self.minor)
    }
}

impl fmt::Display for KubernetesVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("v{}.{}.{}", self.major, self.minor, self.patch))
    }
}

impl FromStr for KubernetesVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let error = || VersionError { text: text.to_owned() };
        let bare = text.strip_prefix('v').unwrap_or(text);
        let mut numbers = bare.split('.').map(|part| {
            let plain = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let canonical = part == "0" || !part.starts_with('0');
            if plain && canonical { part.parse::<u16>().ok() } else { None }
        });
        let mut next = || numbers.next().flatten().ok_or_else(error);
        let version = Self::new(next()?, next()?, next()?);
        if numbers.next().is_some() || version.major != 1 {
            return Err(error());
        }
        Ok(version)
    }
}

impl TryFrom<String> for KubernetesVersion {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl From<KubernetesVersion> for String {
    fn from(version: KubernetesVersion) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_version_parses_with_and_without_its_v() {
        assert_eq!("v1.20.2".parse(), Ok(KubernetesVersion::new(1, 20, 2)));
        assert_eq!("1.20.2".parse(), Ok(KubernetesVersion::new(1, 20, 2)));
    }

    #[test]
    fn what_is_no_released_version_is_refused() {
        for text in [
            "",
            "v",
            "v1",
            "v1.20",
            "v1.20.2.1",
            "v1.20.x",
            "v1.20.2-rc.1",
            "v1.020.2",
            "v2.0.0",
            "v1.-1.2",
            "v1.70000.0",
            "latest",
            " v1.20.2",
        ] {
            assert!(text.parse::<KubernetesVersion>().is_err(), "{text:?} parsed");
        }
    }

    proptest! {
        #[test]
        fn every_version_reads_back_what_it_prints(minor in 0..u16::MAX, patch in 0..u16::MAX) {
            let version = KubernetesVersion::new(1, minor, patch);
            prop_assert_eq!(version.to_string().parse(), Ok(version));
        }
    }
}
