//! The documents in a folder that somebody else writes.

use std::path::{Path, PathBuf};

use crate::identity::files::{self, FileError};
use crate::printable;

/// Most that a document may hold, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// What a document's name ends with.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Why the folder cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    /// The system refused it.
    #[error("{} cannot be {}: {}; the coordinator has to be able to read it", .0.path.display(), .0.what, .0.source)]
    File(#[from] FileError),
    /// A link that leads out of the folder: whoever may write there must not have other files read.
    #[error("{} leads out of {}: only what lies in the folder is read", path.display(), folder.display())]
    Elsewhere {
        /// The file.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// A name that would be shown as something else.
    #[error("\"{name}\" in {} is no name for a document: allowed are characters that are seen", folder.display())]
    Unseen {
        /// The name, with what is not seen spelt out.
        name: String,
        /// The folder.
        folder: PathBuf,
    },
    /// More than any document holds.
    #[error("{} has more than {LARGEST} bytes: a document without its status has a few hundred", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// A file and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Its name in the folder.
    pub(super) name: String,
    pub(super) content: Vec<u8>,
}

/// Every document in the folder itself, by name. What begins with a dot (`.git`, the `..data` of a mounted `ConfigMap`) is
/// none; a link is followed as far as it stays within the folder.
pub(super) fn documents(folder: &Path) -> Result<Vec<Found>, FolderError> {
    let root = files::real_path(folder)?;
    let mut found = Vec::new();
    for path in files::entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if name.starts_with('.') || !EXTENSIONS.contains(&extension) {
            continue;
        }
        let shown = printable::line(&name);
        if shown != name || path.to_str().is_none() {
            return Err(FolderError::Unseen { name: shown.into_owned(), folder: folder.to_owned() });
        }
        let real = files::real_path(&path)?;
        if !real.starts_with(&root) {
            return Err(FolderError::Elsewhere { path, folder: folder.to_owned() });
        }
        if files::size(&real)?.is_none() {
            continue;
        }
        let Some(content) = files::first_bytes(&real, LARGEST + 1)? else { continue };
        if u64::try_from(content.len()).is_ok_and(|length| length > LARGEST) {
            return Err(FolderError::TooLarge { path });
        }
        found.push(Found { name: name.into_owned(), content });
    }
    Ok(found)
}
