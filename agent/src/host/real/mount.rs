//! Which mounted file system something lies on.

use std::os::fd::{AsRawFd, OwnedFd};

use camino::Utf8Path;

use super::files::failed;
use crate::host::HostResult;
use crate::host::trees::Mount;

/// The file system that an open file lies on; `None` where this process does not see it mounted.
pub(super) fn of(file: &OwnedFd) -> HostResult<Option<Mount>> {
    let about = read(&format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let Some(id) = about.lines().find_map(|line| line.strip_prefix("mnt_id:")) else {
        return Ok(None);
    };
    Ok(in_table(&read("/proc/self/mountinfo")?, id.trim()))
}

#[expect(clippy::disallowed_methods, reason = "this is host::Trees")]
fn read(path: &str) -> HostResult<String> {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(failed("cannot read", Utf8Path::new(path)))
}

/// Finds a mount by its number in `/proc/self/mountinfo`, as proc(5) describes it.
fn in_table(table: &str, id: &str) -> Option<Mount> {
    let line = table.lines().find(|line| line.split(' ').next() == Some(id))?;
    let (place, system) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let mut system = system.split(' ');
    Some(Mount {
        root: place.next()?.to_owned(),
        point: place.next()?.to_owned(),
        kind: system.next()?.to_owned(),
        source: system.next()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                         36 22 98:0 /mnt1 /data\\040x rw,noatime master:1 shared:2 - xfs /dev/vdb rw,errors=continue\n";

    #[test]
    fn a_mount_is_found_by_its_number_whatever_optional_fields_it_has() {
        let mount = in_table(TABLE, "36").unwrap();
        let found = (mount.root.as_str(), mount.point.as_str(), mount.kind.as_str(), mount.source.as_str());
        assert_eq!(found, ("/mnt1", "/data\\040x", "xfs", "/dev/vdb"));
        assert_eq!(in_table(TABLE, "3"), None);
    }

    #[test]
    fn this_machine_says_what_a_file_lies_on() {
        let file = rustix::fs::open("/proc", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        assert_eq!(of(&file).unwrap().unwrap().kind, "proc");
    }
}
