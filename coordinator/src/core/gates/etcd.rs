//! etcd: its members, what they run, and the room that they have.

use std::collections::BTreeSet;

use super::{Consent, Finding, Gate, Look, Situation, When};
use crate::core::minors::{Minor, minors};
use crate::core::sequence;
use crate::core::view::{ControlPlaneReport, Etcd, UNSAID};

/// A member's release, numbers only.
type Release = (u32, u32, u32);

/// Before etcd 3.6 a member must have run this: it brings the two records of who is a member into line, which 3.6 would
/// otherwise take a removed member from (<https://etcd.io/blog/2025/zombie_members_upgrade/>).
const READY_FOR_3_6: Release = (3, 5, 26);

/// A database that is fuller than this part of its quota, in percent, may come to its end during the upgrade.
const FULL_PERCENT: u64 = 80;

/// kubeadm leaves it alone, and so does Liftlock.
pub(super) static EXTERNAL: Gate = Gate {
    name: "external-etcd",
    about: "etcd runs on the control planes",
    consent: Consent::Never,
    when: When::Before,
    look: Look::Cluster(|_, cluster| {
        let external = cluster.etcd_members == 0 && unasked(cluster).is_none();
        let found = external.then(|| {
            Finding::closed(
                "etcd does not run on the control planes, and this version of Liftlock backs up and guards stacked etcd only: raise \
                 such a cluster by kubeadm's own steps",
            )
        });
        found.into_iter().collect()
    }),
};

/// Each member is stopped once.
pub(super) static QUORUM: Gate = Gate {
    name: "quorum",
    about: "every member of etcd is healthy",
    consent: Consent::Never,
    when: When::Between,
    look: Look::Cluster(|_, cluster| {
        if let Some(why) = unasked(cluster) {
            return vec![Finding::unknown("whether every member of etcd is healthy", why)];
        }
        let ControlPlaneReport { etcd_members: members, etcd_healthy_members: healthy, .. } = *cluster;
        let found = (healthy < members).then(|| {
            Finding::closed(format!(
                "{healthy} of {members} etcd members are healthy: all must be, because each is stopped once; look at \
                 `etcdctl endpoint health --cluster`"
            ))
        });
        found.into_iter().collect()
    }),
};

/// A learner counts for nothing while another member is away, and kubeadm waits for it.
pub(super) static LEARNER: Gate = Gate {
    name: "etcd-learner",
    about: "every member of etcd has a vote",
    consent: Consent::ToTheUnknown,
    when: When::Before,
    look: Look::Cluster(|_, cluster| {
        judge(cluster, "whether every member of etcd has a vote", |etcd| {
            let learners: Vec<&str> = etcd
                .members
                .iter()
                .filter(|member| member.learner)
                .map(|member| member.name.as_str())
                .collect();
            (!learners.is_empty()).then(|| {
                format!(
                    "{} has no vote in etcd yet: promote it with `etcdctl member promote`, or remove it",
                    learners.join(", ")
                )
            })
        })
    }),
};

/// With NOSPACE nothing can be written, with CORRUPT nothing should be.
pub(super) static ALARM: Gate = Gate {
    name: "etcd-alarm",
    about: "etcd has raised no alarm",
    consent: Consent::ToTheUnknown,
    when: When::Between,
    look: Look::Cluster(|_, cluster| {
        judge(cluster, "whether etcd has raised an alarm", |etcd| {
            (!etcd.alarms.is_empty()).then(|| {
                format!(
                    "etcd has raised an alarm ({}): free its space with compaction and defragmentation, then `etcdctl \
                     alarm disarm`",
                    etcd.alarms.join(", ")
                )
            })
        })
    }),
};

/// Members at more than two versions are no state of an upgrade; some versions must not be left, or come to, at all.
pub(super) static VERSION: Gate = Gate {
    name: "etcd-version",
    about: "etcd's members run versions from which the target's etcd can follow",
    consent: Consent::ToTheUnknown,
    when: When::Before,
    look: Look::Cluster(|situation, cluster| {
        let mut findings = judge(cluster, "which versions etcd's members run", too_many_versions);
        // Which etcd the raise before brings depends on its patch release: it is asked once that is there.
        if !situation.is_ahead() && enters_3_6(situation, cluster) {
            let found = judge(cluster, "which versions etcd's members run", |etcd| {
                let behind = |member: &&crate::core::view::EtcdMember| {
                    release(&member.version).is_none_or(|release| release < READY_FOR_3_6)
                };
                let behind: Vec<String> = etcd
                    .members
                    .iter()
                    .filter(behind)
                    .map(|member| format!("{} ({})", member.name, member.version))
                    .collect();
                (!behind.is_empty()).then(|| {
                    format!(
                        "{} brings etcd 3.6, where members that were removed long ago come back unless 3.5.26 or later \
                         has run before: {}; raise the cluster to a patch release with such an etcd first, or name it in \
                         kubeadm-config (etcd.local.imageTag)",
                        situation.target.minor_name(),
                        behind.join(", ")
                    )
                })
            });
            findings.extend(found.into_iter().filter(|finding| finding.known));
        }
        findings
    }),
};

/// One that is full takes no more writes, and the API server none either.
pub(super) static SPACE: Gate = Gate {
    name: "etcd-space",
    about: "etcd's database has room below its quota",
    consent: Consent::Always,
    when: When::Before,
    look: Look::Cluster(|_, cluster| {
        judge(cluster, "how full etcd's database is", |etcd| {
            let limit = etcd.quota_bytes / 100 * FULL_PERCENT;
            let full: Vec<String> = etcd
                .members
                .iter()
                .filter(|member| etcd.quota_bytes > 0 && member.db_bytes > limit)
                .map(|member| format!("{} ({} MiB)", member.name, member.db_bytes >> 20))
                .collect();
            (!full.is_empty()).then(|| {
                format!(
                    "etcd's database is fuller than {FULL_PERCENT} % of its quota of {} MiB: {}; once it is full, nothing \
                     can be written; defragment the members one at a time, the leader last",
                    etcd.quota_bytes >> 20,
                    full.join(", ")
                )
            })
        })
    }),
};

/// With one or two members every restart takes the quorum away.
pub(super) static API_OUTAGE: Gate = Gate {
    name: sequence::API_OUTAGE,
    about: "etcd keeps its quorum while one member restarts: it has three or more",
    consent: Consent::Always,
    when: When::Before,
    look: Look::Cluster(|_, cluster| match cluster.etcd_members {
        1 => vec![Finding::closed("etcd has 1 member: the API goes away while it restarts")],
        2 => vec![Finding::closed(
            "etcd has 2 members, and two are worse than one: its quorum is both of them, so the API goes away while either \
             restarts, and would stay away if either were lost; have one or three",
        )],
        _ => Vec::new(),
    }),
};

/// Why the members that are there could not be asked. Of an external etcd nobody says anything.
fn unasked(cluster: &ControlPlaneReport) -> Option<&str> {
    let unread = cluster.findings.etcd.as_ref().err().filter(|why| *why != UNSAID);
    unread.filter(|_| cluster.etcd_members == 0).map(String::as_str)
}

/// What etcd's members say, judged. An external etcd is another gate's.
fn judge(
    cluster: &ControlPlaneReport,
    what: &str,
    judge: impl FnOnce(&Etcd) -> Option<String>,
) -> Vec<Finding> {
    if cluster.etcd_members == 0 && unasked(cluster).is_none() {
        return Vec::new();
    }
    match &cluster.findings.etcd {
        Ok(etcd) => judge(etcd).map(Finding::closed).into_iter().collect(),
        Err(why) => vec![Finding::unknown(what, why)],
    }
}

fn too_many_versions(etcd: &Etcd) -> Option<String> {
    let versions: BTreeSet<&str> = etcd
        .members
        .iter()
        .map(|member| member.version.as_str())
        .filter(|version| !version.is_empty())
        .collect();
    let minors: BTreeSet<(u32, u32)> = versions
        .iter()
        .filter_map(|version| release(version))
        .map(|(major, minor, _)| (major, minor))
        .collect();
    let apart = match (minors.first(), minors.last()) {
        (Some(oldest), Some(newest)) => oldest.0 != newest.0 || newest.1 - oldest.1 > 1,
        _ => false,
    };
    (versions.len() > 2 || apart).then(|| {
        format!(
            "etcd's members run {}: more than two versions, or more than one minor apart, is no state of an upgrade; bring \
             them to one version first",
            versions.into_iter().collect::<Vec<_>>().join(", ")
        )
    })
}

/// Whether the way to the target leads from an earlier etcd to 3.6.
fn enters_3_6(situation: &Situation<'_>, cluster: &ControlPlaneReport) -> bool {
    let (from, to) = (cluster.kubeadm_config_version.minor, situation.target.minor);
    let is_3_6 = |minor: &Minor| minor.etcd_minor() == Some("3.6");
    !minors().of(from).is_some_and(is_3_6) && minors().entered(from, to).any(is_3_6)
}

fn release(version: &str) -> Option<Release> {
    let mut numbers = version.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
}
