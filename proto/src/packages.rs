//! Where a node's kubeadm, kubelet and kubectl come from.

use serde::{Deserialize, Serialize};

use crate::v1;

/// What installs a node's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PackageManager {
    /// apt and dpkg.
    #[default]
    Apt,
    /// dnf and rpm.
    Dnf,
    /// None: they are files that no package owns.
    Files,
}

impl PackageManager {
    /// Its name in configuration, documents and on screens.
    pub fn name(self) -> &'static str {
        match self {
            Self::Apt => "apt",
            Self::Dnf => "dnf",
            Self::Files => "files",
        }
    }
}

/// Where a node's packages come from. The default is apt with repositories of all minors.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PackageSource {
    /// What installs them.
    pub manager: PackageManager,
    /// The folder on the node that holds packages and images; `None` where repositories and registries are asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// The node's repositories are split by minor, as pkgs.k8s.io is.
    #[serde(skip_serializing_if = "is_off")]
    pub split_by_minor: bool,
}

impl PackageSource {
    /// Whether it is what goes without saying.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// In a few words: `apt`, `dnf, split by minor`, `files in /var/lib/liftlock/offline`.
    pub fn words(&self) -> String {
        let name = self.manager.name();
        match &self.directory {
            Some(directory) => format!("{name} in {directory}"),
            None if self.split_by_minor => format!("{name}, split by minor"),
            None => name.to_owned(),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_off(wish: &bool) -> bool {
    !wish
}

impl From<PackageSource> for v1::PackageSource {
    fn from(source: PackageSource) -> Self {
        let manager = match source.manager {
            PackageManager::Apt => v1::PackageManager::Apt,
            PackageManager::Dnf => v1::PackageManager::Dnf,
            PackageManager::Files => v1::PackageManager::Files,
        };
        Self {
            manager: manager.into(),
            directory: source.directory.unwrap_or_default(),
            split_by_minor: source.split_by_minor,
        }
    }
}

impl From<v1::PackageSource> for PackageSource {
    fn from(message: v1::PackageSource) -> Self {
        let manager = match message.manager() {
            v1::PackageManager::Apt => PackageManager::Apt,
            v1::PackageManager::Dnf => PackageManager::Dnf,
            v1::PackageManager::Files => PackageManager::Files,
        };
        let directory = Some(message.directory).filter(|directory| !directory.is_empty());
        Self { manager, directory, split_by_minor: message.split_by_minor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_survives_its_message_and_the_usual_one_is_the_default() {
        let directory = Some("/var/lib/liftlock/offline".to_owned());
        for manager in [PackageManager::Apt, PackageManager::Dnf, PackageManager::Files] {
            for (directory, split_by_minor) in [(None, false), (None, true), (directory.clone(), false)] {
                let source = PackageSource { manager, directory, split_by_minor };
                assert_eq!(PackageSource::from(v1::PackageSource::from(source.clone())), source);
            }
        }
        assert!(PackageSource::from(v1::PackageSource::default()).is_default());
    }

    #[test]
    fn a_source_is_told_in_a_few_words() {
        let split = PackageSource { split_by_minor: true, ..PackageSource::default() };
        assert_eq!(split.words(), "apt, split by minor");
        let directory = Some("/srv/offline".to_owned());
        let files = PackageSource { manager: PackageManager::Files, directory, split_by_minor: false };
        assert_eq!(files.words(), "files in /srv/offline");
    }
}
