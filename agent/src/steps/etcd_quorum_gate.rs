//! Lets a control plane begin only where etcd can miss this node's member.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;

use super::static_pods;
use crate::backup::Backup;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, PreState, StepFailure, StepPolicy, StepRunner};
use crate::host::{EtcdMember, EtcdStatus};

pub(super) struct EtcdQuorumGate {
    pub(super) allow_api_outage: bool,
}

/// How long a member may be away that stood still a moment ago: the previous node's, which was restarted by its own
/// upgrade, or that of a machine that lost its power and starts again.
const OPENS_WITHIN: Duration = Duration::from_mins(5);

const ASK_EVERY: Duration = Duration::from_secs(3);

/// Why the gate is closed.
#[derive(Debug, PartialEq, Eq)]
enum Closed {
    /// It may open by itself, as after the previous node's restart.
    Now(String),
    /// Somebody has to do something.
    Until(String),
}

impl EtcdQuorumGate {
    async fn look(&self, cx: &Context, backup: Option<&Backup>) -> Result<(), Closed> {
        let local = static_pods::etcd_is_local(cx, backup).await;
        if local.map_err(|error| Closed::Now(error.to_string()))? {
            let members = cx.host.etcd.members().await.map_err(|error| Closed::Now(error.to_string()))?;
            let alarms = cx.host.etcd.alarms().await.map_err(|error| Closed::Now(error.to_string()))?;
            self.judge(&members, &alarms)
        } else {
            // kubeadm leaves an external etcd alone, so no member stops.
            Ok(())
        }
    }

    /// Until the gate opens, or nothing is left to hope for.
    pub(super) async fn wait(&self, cx: &Context, backup: Option<&Backup>) -> Result<(), StepFailure> {
        let clock = &cx.host.clock;
        let deadline = clock.monotonic() + OPENS_WITHIN;
        let mut said = String::new();
        loop {
            match self.look(cx, backup).await {
                Ok(()) => return Ok(()),
                Err(Closed::Until(why)) => return Err(StepFailure::Refused(why)),
                Err(Closed::Now(why)) if clock.monotonic() >= deadline => {
                    return Err(StepFailure::Unproven(why));
                }
                Err(Closed::Now(why)) => {
                    if why != said {
                        cx.reporter.line(cx.step, &format!("waiting: {why}"));
                        said = why;
                    }
                    clock.sleep(ASK_EVERY).await;
                }
            }
        }
    }

    /// What etcd's answers mean. While it is raised, members differ in version; etcd allows a difference of one
    /// minor for that long.
    fn judge(&self, members: &[EtcdMember], alarms: &[String]) -> Result<(), Closed> {
        if !alarms.is_empty() {
            return Err(Closed::Until(format!(
                "etcd has raised an alarm ({}): free its space with compaction and defragmentation, then \
                 `etcdctl alarm disarm`, and retry the node",
                alarms.join(", ")
            )));
        }
        if let Some(learner) = members.iter().find(|member| member.learner) {
            return Err(Closed::Until(format!(
                "etcd member {} is a learner that has no vote yet: promote it with `etcdctl member promote {:x}` or \
                 remove it, then retry the node",
                name(learner),
                learner.id
            )));
        }
        for member in members {
            if let Err(why) = healthy(member) {
                return Err(Closed::Now(format!(
                    "etcd member {} is not healthy: {why}; bring it back (its pod's log is below \
                     /var/log/pods/kube-system_etcd-… on that node), then retry the node",
                    name(member)
                )));
            }
        }
        one_minor_apart(members)?;
        let quorum = members.len() / 2 + 1;
        if members.len() > quorum || (self.allow_api_outage && (1..=2).contains(&members.len())) {
            return Ok(());
        }
        Err(Closed::Until(match members.len() {
            0 => "etcd has no member at all: look at `etcdctl member list` before anything else".to_owned(),
            n => format!(
                "etcd has {n} member{}, so it loses its quorum of {quorum} while this node's member restarts, and the \
                 API is away for that long: consent with `--accept api-outage`, or add members first",
                if n == 1 { "" } else { "s" }
            ),
        }))
    }
}

/// A member that has not started yet has no name.
fn name(member: &EtcdMember) -> String {
    if member.name.is_empty() { format!("{:x}", member.id) } else { member.name.clone() }
}

fn healthy(member: &EtcdMember) -> Result<(), String> {
    match &member.status {
        Err(why) => Err(why.clone()),
        Ok(EtcdStatus { errors, .. }) if !errors.is_empty() => Err(errors.join(", ")),
        Ok(EtcdStatus { leader: 0, .. }) => Err("it sees no leader".to_owned()),
        Ok(_) => Ok(()),
    }
}

fn one_minor_apart(members: &[EtcdMember]) -> Result<(), Closed> {
    let versions: BTreeSet<(u32, u32, &str)> = members
        .iter()
        .filter_map(|member| {
            let version = &member.status.as_ref().ok()?.version;
            let mut numbers = version.split('.').map(|number| number.parse().unwrap_or_default());
            Some((numbers.next()?, numbers.next()?, version.as_str()))
        })
        .collect();
    let (Some(oldest), Some(newest)) = (versions.first(), versions.last()) else {
        return Ok(());
    };
    if versions.len() <= 2 && oldest.0 == newest.0 && newest.1 - oldest.1 <= 1 {
        return Ok(());
    }
    let all: Vec<&str> = versions.iter().map(|(_, _, version)| *version).collect();
    Err(Closed::Until(format!(
        "etcd's members run {}: more than two versions, or more than one minor apart, is no state of an upgrade; bring \
         them to one version first",
        all.join(", ")
    )))
}

#[async_trait]
impl StepRunner for EtcdQuorumGate {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let backup = Backup::find(cx).await?;
        let open = self.look(cx, backup.as_ref()).await.is_ok();
        Ok(if open { Observed::Done } else { Observed::Absent })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    /// Changes nothing, except after a power cut between two renames of kubeadm: then this node's own etcd may be
    /// the unhealthy member, for want of its manifest, and the gate would stay closed for ever.
    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let backup = Backup::find(cx).await?;
        if static_pods::put_back_missing(cx, backup.as_ref()).await? {
            static_pods::settle(cx, backup.as_ref()).await?;
        }
        cx.timed(TimeSpent::Wait, self.wait(cx, backup.as_ref())).await
    }

    async fn undo(&self, _: &Context, _: &PreState) -> Result<(), StepFailure> {
        Ok(())
    }

    fn policy(&self) -> StepPolicy {
        StepPolicy { attempts: 2, pause: ASK_EVERY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> EtcdMember {
        let status =
            EtcdStatus { version: "3.5.12".to_owned(), db_size: 4096, leader: 1, errors: Vec::new() };
        EtcdMember {
            id,
            name: format!("cp{id}"),
            peer_urls: Vec::new(),
            learner: false,
            local: id == 1,
            status: Ok(status),
        }
    }

    fn members(n: u64) -> Vec<EtcdMember> {
        (1..=n).map(member).collect()
    }

    fn judge(members: &[EtcdMember], alarms: &[String], consent: bool) -> Result<(), Closed> {
        EtcdQuorumGate { allow_api_outage: consent }.judge(members, alarms)
    }

    #[test]
    fn a_member_may_stop_only_where_the_others_are_a_quorum_or_an_outage_was_consented_to() {
        for (n, without, with) in [
            (0, false, false),
            (1, false, true),
            (2, false, true),
            (3, true, true),
            (4, true, true),
            (5, true, true),
            (7, true, true),
        ] {
            assert_eq!(judge(&members(n), &[], false).is_ok(), without, "{n} members, no consent");
            assert_eq!(judge(&members(n), &[], true).is_ok(), with, "{n} members, consent");
        }
    }

    #[test]
    fn an_unhealthy_member_closes_the_gate_whatever_the_consent_and_is_named() {
        let breaks: [fn(&mut EtcdMember); 3] = [
            |member| member.status = Err("connection refused".to_owned()),
            |member| member.status.as_mut().unwrap().leader = 0,
            |member| member.status.as_mut().unwrap().errors = vec!["NOSPACE".to_owned()],
        ];
        for n in [1, 3, 5] {
            for breaks in breaks {
                let mut members = members(n);
                breaks(members.last_mut().unwrap());
                let Err(Closed::Now(why)) = judge(&members, &[], true) else { panic!("{n} members: open") };
                assert!(why.contains(&format!("cp{n}")), "{why}");
            }
        }
    }

    #[test]
    fn an_alarm_or_a_learner_closes_the_gate_until_somebody_acts() {
        let Err(Closed::Until(why)) = judge(&members(3), &["NOSPACE on cp2".to_owned()], true) else {
            panic!()
        };
        assert!(why.contains("NOSPACE on cp2"), "{why}");
        let mut learning = members(3);
        learning[2].learner = true;
        let Err(Closed::Until(why)) = judge(&learning, &[], true) else { panic!() };
        assert!(why.contains("cp3 is a learner"), "{why}");
    }

    #[test]
    fn members_may_be_one_minor_apart_as_in_the_middle_of_an_upgrade_and_no_more() {
        let versions = |versions: [&str; 3]| {
            let mut members = members(3);
            for (member, version) in members.iter_mut().zip(versions) {
                version.clone_into(&mut member.status.as_mut().unwrap().version);
            }
            judge(&members, &[], false)
        };
        assert_eq!(versions(["3.5.15", "3.5.12", "3.5.12"]), Ok(()));
        assert_eq!(versions(["3.6.4", "3.5.26", "3.5.26"]), Ok(()));
        assert!(versions(["3.6.4", "3.4.13", "3.4.13"]).is_err());
        assert!(versions(["3.5.15", "3.5.12", "3.5.9"]).is_err());
    }
}
