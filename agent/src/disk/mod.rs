//! The agent's own few files: journal, fence, identity, configuration. What a power cut leaves of each write is said here.
//!
//! Small on purpose: a test that replays every prefix of the agent's writes needs to replay these six operations only.

use std::io;

use camino::Utf8Path;

mod local;
#[cfg(test)]
pub(crate) mod memory;

pub use local::LocalDisk;

/// Where the agent keeps what it must not forget. Every call blocks until its effect is durable.
pub trait Disk: Send + Sync {
    /// The whole file, or `None` where there is none.
    fn read(&self, path: &Utf8Path) -> io::Result<Option<Vec<u8>>>;
    /// Names in a folder, sorted; empty where there is none.
    fn list(&self, folder: &Utf8Path) -> io::Result<Vec<String>>;
    /// A folder and its parents, readable by the agent's user only.
    fn create_folder(&self, folder: &Utf8Path) -> io::Result<()>;
    /// Puts a whole file (0600) in the place of the one that was there, or of none. After a power cut either the old
    /// one or the new one is there, never a part.
    fn replace(&self, path: &Utf8Path, content: &[u8]) -> io::Result<()>;
    /// Opens a file to append to, after cutting off what lies beyond `length` bytes.
    fn append_to(&self, path: &Utf8Path, length: u64) -> io::Result<Box<dyn Appender>>;
    /// Renames within one folder, over what was there.
    fn rename(&self, from: &Utf8Path, to: &Utf8Path) -> io::Result<()>;
    /// Removes a file; fine if there is none.
    fn remove(&self, path: &Utf8Path) -> io::Result<()>;
}

/// A file that only grows.
pub trait Appender: Send {
    /// Appends all bytes. After an error, or a power cut before the return, any prefix of them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
}
