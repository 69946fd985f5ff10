//! What a kubelet meets on its machine.

use liftlock_proto::v1::{CgroupFacts, RoomFacts, SwapFacts};

use super::told;
use crate::host::{Host, HostError, HostResult};

/// Only in the root of a hierarchy of version 2, which is alone there: of two side by side the other one has the root.
const CGROUP_V2: &str = "/sys/fs/cgroup/cgroup.controllers";

/// The kernel's list of swap areas, one a line after a heading.
const SWAPS: &str = "/proc/swaps";

/// As the kubelet has it, through cAdvisor: `MemTotal:        16384256 kB` is its capacity.
const MEMORY: &str = "/proc/meminfo";

/// The CPUs that the scheduler of the kernel may use: `0-3,6`.
const CPUS: &str = "/sys/devices/system/cpu/online";

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

/// What room for pods it could give.
pub async fn room(host: &Host) -> RoomFacts {
    told(
        cpus_and_memory(host).await,
        |(cpus, memory_bytes)| RoomFacts {
            cpus,
            memory_bytes,
            architecture: architecture(std::env::consts::ARCH).to_owned(),
            ..RoomFacts::default()
        },
        |unread| RoomFacts { unread, ..RoomFacts::default() },
    )
}

async fn cpus_and_memory(host: &Host) -> HostResult<(u64, u64)> {
    let cpus = of_the_kernel(host, CPUS, online).await?;
    Ok((cpus, of_the_kernel(host, MEMORY, total_bytes).await?))
}

/// What a file of the kernel says, by who reads it.
async fn of_the_kernel(host: &Host, path: &str, read: fn(&str) -> Option<u64>) -> HostResult<u64> {
    let path = host.layout.at(path);
    let text = host.files.read(&path).await?;
    let text = text.as_deref().map(String::from_utf8_lossy);
    text.as_deref().and_then(read).ok_or_else(|| HostError::Malformed {
        what: format!("what the kernel says in {path}"),
        why: if text.is_some() { "it is none of its numbers" } else { "it is not there" }.to_owned(),
    })
}

/// How many a list of numbers and ranges has: `0-3,6`.
fn online(ranges: &str) -> Option<u64> {
    let mut count = 0_u64;
    for range in ranges.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

fn total_bytes(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// As Go, and so Kubernetes, calls what Rust calls otherwise.
fn architecture(of_rust: &str) -> &str {
    match of_rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_counted_over_ranges_and_memory_is_the_kernels_total() {
        let counted = ["0\n", "0-3\n", "0-1,4,6-7\n", "", "3-1", "0-x"].map(online);
        assert_eq!(counted, [Some(1), Some(4), Some(5), None, None, None]);
        let meminfo = "MemTotal:       24684084 kB\nMemFree:         1 kB\n";
        assert_eq!(total_bytes(meminfo), Some(24_684_084 * 1024));
        assert_eq!(total_bytes("MemFree: 1 kB\n"), None);
    }
}
