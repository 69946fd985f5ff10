//! Takes the member of a node that has left out of etcd, where the rest goes on without it.
//!
//! A member that is gone for good still counts for the quorum. So it goes before another is added: with three members, one of
//! them dead, a fourth would raise the quorum to three, and until the new one has started two would have to be three
//! (<https://etcd.io/docs/v3.5/op-guide/runtime-configuration/>, "Replace a failed machine"; and its FAQ, "Should I add a
//! member before removing an unhealthy member?").

use async_trait::async_trait;
use liftlock_proto::name::NodeName;

use super::kubeadm::PAUSE;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, PreState, StepFailure, StepPolicy, StepRunner};
use crate::host::{EtcdMember, HostResult};

pub(super) struct RemoveEtcdMember {
    pub(super) member: NodeName,
}

impl RemoveEtcdMember {
    async fn members(cx: &Context) -> HostResult<Vec<EtcdMember>> {
        cx.timed(TimeSpent::Wait, cx.host.etcd.members()).await
    }

    fn of<'a>(&self, members: &'a [EtcdMember]) -> Option<&'a EtcdMember> {
        members.iter().find(|member| member.name == self.member.as_str())
    }

    /// A member that answers belongs to a node that has not left, and the others have to be able to do without it: to
    /// agree on its going as well as afterwards.
    fn judge(&self, members: &[EtcdMember], leaver: &EtcdMember) -> Result<(), StepFailure> {
        if leaver.status.is_ok() {
            return Err(StepFailure::Refused(format!(
                "etcd's member {0} answers, so {0} has not left the cluster: its machine has to be off, or reset with \
                 `kubeadm reset`, before its member goes",
                self.member
            )));
        }
        let well = |member: &&EtcdMember| {
            !member.learner
                && matches!(&member.status, Ok(status) if status.errors.is_empty() && status.leader != 0)
        };
        let well = members.iter().filter(well).count();
        let quorum = members.iter().filter(|member| !member.learner).count() / 2 + 1;
        if well >= quorum {
            return Ok(());
        }
        Err(StepFailure::Unproven(format!(
            "of etcd's {} members {well} are well, and {quorum} have to be for {} to go: bring the others back first",
            members.len(),
            self.member
        )))
    }
}

#[async_trait]
impl StepRunner for RemoveEtcdMember {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let there = self.of(&Self::members(cx).await?).is_some();
        Ok(if there { Observed::Absent } else { Observed::Done })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let members = Self::members(cx).await?;
        let Some(leaver) = self.of(&members) else { return Ok(()) };
        self.judge(&members, leaver)?;
        cx.reporter.line(cx.step, &format!("etcd's member {} ({:x}) goes", self.member, leaver.id));
        Ok(cx.host.etcd.remove_member(&cx.permit()?, leaver.id).await?)
    }

    async fn undo(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        if self.of(&Self::members(cx).await?).is_some() {
            return Ok(());
        }
        Err(StepFailure::Refused(format!(
            "etcd's member {} is gone, and nobody puts that back: a member begins anew, with a machine that joins",
            self.member
        )))
    }

    fn policy(&self) -> StepPolicy {
        StepPolicy { attempts: 3, pause: PAUSE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::EtcdStatus;

    fn members(well: usize, dead: usize) -> Vec<EtcdMember> {
        let status = EtcdStatus { version: "3.5.12".to_owned(), db_size: 1, leader: 1, errors: Vec::new() };
        (1..=well + dead)
            .map(|number| EtcdMember {
                id: number as u64,
                name: format!("cp{number}"),
                peer_urls: Vec::new(),
                learner: false,
                local: number == 1,
                status: if number > well { Err("connection refused".to_owned()) } else { Ok(status.clone()) },
            })
            .collect()
    }

    #[test]
    fn a_dead_member_goes_only_where_the_others_are_a_quorum_of_all() {
        for (well, dead, goes) in
            [(1, 1, false), (2, 1, true), (1, 2, false), (3, 1, true), (2, 2, false), (3, 2, true)]
        {
            let members = members(well, dead);
            let leaver = members.last().unwrap();
            let step = RemoveEtcdMember { member: leaver.name.parse().unwrap() };
            assert_eq!(step.judge(&members, leaver).is_ok(), goes, "{well} well, {dead} dead");
        }
    }

    #[test]
    fn a_member_that_answers_is_never_taken_out() {
        let members = members(3, 0);
        let step = RemoveEtcdMember { member: "cp3".parse().unwrap() };
        let refused = step.judge(&members, &members[2]).unwrap_err().to_string();
        assert!(refused.contains("cp3 answers"), "{refused}");
    }
}
