//! Which document of a folder counts.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::folder::Found;
use crate::document::{self, UpgradePlan};

/// The one document of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The file's name.
    pub(super) file: String,
    pub(super) document: UpgradePlan,
    /// SHA-256 of what it says, lower-case hexadecimal: neither its comments nor its file's name count.
    pub(super) hash: String,
}

/// The only document, or why nobody can tell what is wanted.
pub(super) fn only_one(folder: &Path, found: &[Found]) -> Result<Wanted, String> {
    let [Found { name, content }] = found else {
        let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
        return Err(match names.as_slice() {
            [] => format!("{} holds no document: nothing is wanted", folder.display()),
            names => format!(
                "{} holds {}: exactly one document may say what is wanted, move the others away",
                folder.display(),
                names.join(", ")
            ),
        });
    };
    let document =
        document::parse_file(content).map_err(|error| format!("{name} is not an upgrade plan: {error}"))?;
    let hash = hash(&document).map_err(|error| format!("{name} has no hash: {error}"))?;
    Ok(Wanted { file: name.clone(), document, hash })
}

/// SHA-256 of what a document says, lower-case hexadecimal.
pub(super) fn hash(document: &UpgradePlan) -> serde_json::Result<String> {
    Ok(format!("{:x}", Sha256::digest(serde_json::to_vec(document)?)))
}
