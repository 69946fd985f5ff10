//! What a kubelet meets on its machine.

use liftlock_proto::v1::{CgroupFacts, SwapFacts};

use super::told;
use crate::host::{Host, HostError, HostResult};

/// Only in the root of a hierarchy of version 2, which is alone there: of two side by side the other one has the root.
const CGROUP_V2: &str = "/sys/fs/cgroup/cgroup.controllers";

/// The kernel's list of swap areas, one a line after a heading.
const SWAPS: &str = "/proc/swaps";

/// Which version of cgroup the machine has.
pub async fn cgroup(host: &Host) -> CgroupFacts {
    let there = host.files.exists(&host.layout.at(CGROUP_V2)).await;
    told(
        there,
        |v2| CgroupFacts { v2, ..CgroupFacts::default() },
        |unread| CgroupFacts { unread, ..CgroupFacts::default() },
    )
}

/// What the machine swaps to.
pub async fn swap(host: &Host) -> SwapFacts {
    told(
        swap_areas(host).await,
        |areas| SwapFacts { areas, ..SwapFacts::default() },
        |unread| SwapFacts { unread, ..SwapFacts::default() },
    )
}

async fn swap_areas(host: &Host) -> HostResult<Vec<String>> {
    let path = host.layout.at(SWAPS);
    let Some(list) = host.files.read(&path).await? else {
        return Err(HostError::Malformed {
            what: format!("the kernel's list of swap areas {path}"),
            why: "it is not there".to_owned(),
        });
    };
    let list = String::from_utf8_lossy(&list);
    let areas = list.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    Ok(areas.map(str::to_owned).collect())
}
