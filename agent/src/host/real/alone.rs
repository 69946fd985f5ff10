//! One process at a time.

use std::os::fd::OwnedFd;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

use super::files::{failed, on_a_thread};
use crate::host::HostResult;

/// The right to be the only one at a folder. It ends with the process, however that ends.
#[derive(Debug)]
pub struct Alone(#[expect(dead_code, reason = "the kernel releases it when this is closed")] OwnedFd);

/// Waits until nobody else is at a folder, which is there.
pub async fn alone_at(folder: &Utf8Path) -> HostResult<Alone> {
    let folder: Utf8PathBuf = folder.to_owned();
    on_a_thread(move || {
        let opened = open(folder.as_str(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("cannot open", &folder))?;
        flock(&opened, FlockOperation::LockExclusive).map_err(failed("cannot lock", &folder))?;
        Ok(Alone(opened))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn whoever_comes_second_waits_until_the_first_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap();
        let first = alone_at(path).await.unwrap();
        let mut second = Box::pin(alone_at(path));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        tokio::time::timeout(Duration::from_mins(1), second).await.unwrap().unwrap();
    }
}
