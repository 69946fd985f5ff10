//! Folders that go when they are dropped, in memory where the machine has room for them.
//!
//! Whole clusters are written there, each record of each journal with an fsync. What a disk keeps when the power goes is the
//! subject of [`powercut`](crate::powercut), which follows the calls themselves; everything else only waits for it.

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::statvfs;
use tempfile::{Builder, TempDir};

/// Where Linux has files in memory.
const MEMORY: &str = "/dev/shm";

/// The room that has to be there, in bytes: each node looks for several hundred MiB before it is raised. Containers often have
/// 64 MiB.
const ROOM: u64 = 2 << 30;

/// A folder of its own. Nothing in it has to survive anything. `TMPDIR` says where, if it is set.
pub fn folder() -> Result<TempDir> {
    let mut named = Builder::new();
    named.prefix("liftlock-");
    let memory = Path::new(MEMORY);
    let folder = if env::var_os("TMPDIR").is_none() && has_room(memory) {
        named.tempdir_in(memory).or_else(|_| named.tempdir())
    } else {
        named.tempdir()
    };
    folder.context("cannot make a folder for temporary files")
}

fn has_room(memory: &Path) -> bool {
    fs::metadata(memory).is_ok_and(|found| found.is_dir())
        && statvfs(memory).is_ok_and(|room| room.f_bavail.saturating_mul(room.f_frsize) >= ROOM)
}
