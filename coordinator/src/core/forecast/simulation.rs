//! The cluster while it is drained node by node, in the mind only.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::name::NodeName;
use liftlock_proto::plan::Policy;

use super::{Budget, Cause, Forbidden, Lack, PodGroup, Room, What, Workloads};

/// What a drain met: of which workload, how many of its pods, and what.
pub(super) type Met = (String, u32, What);

pub(super) struct Simulation<'a> {
    sites: BTreeMap<&'a NodeName, Site<'a>>,
    budgets: Vec<Budget>,
    /// How many pods of each budget were deleted though it let none go: so many have to be back before it lets one go again.
    owed: Vec<u32>,
    pods: Vec<Pod<'a>>,
    /// Ready pods of each workload.
    ready: BTreeMap<&'a str, u32>,
}

/// A node, and what is free on it: less than nothing where it is overcommitted already.
struct Site<'a> {
    room: Room,
    open: bool,
    /// The scheduler prefers others to it.
    avoided: bool,
    cpu_m: i128,
    memory_bytes: i128,
    pods: i128,
    /// How many pods of each workload are on it.
    hosts: BTreeMap<&'a str, u32>,
}

#[derive(Clone, Copy)]
pub(super) struct Pod<'a> {
    group: &'a PodGroup,
    pub(super) place: Place<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    On(&'a NodeName),
    /// Started again, and no node has room for it.
    Pending,
    /// Deleted, and nothing starts it again.
    Gone,
}

#[cfg(test)]
impl<'a> Pod<'a> {
    /// What it is like.
    pub(super) fn group(&self) -> &'a PodGroup {
        self.group
    }
}

impl<'a> Site<'a> {
    fn of(room: Room) -> Self {
        Self {
            open: room.schedulable,
            avoided: false,
            cpu_m: room.cpu_m.into(),
            memory_bytes: room.memory_bytes.into(),
            pods: room.pods.into(),
            hosts: BTreeMap::new(),
            room,
        }
    }

    fn take(&mut self, group: &'a PodGroup) {
        self.cpu_m -= i128::from(group.cpu_m);
        self.memory_bytes -= i128::from(group.memory_bytes);
        self.pods -= 1;
        *self.hosts.entry(&group.workload).or_default() += 1;
    }

    fn leave(&mut self, group: &'a PodGroup) {
        self.cpu_m += i128::from(group.cpu_m);
        self.memory_bytes += i128::from(group.memory_bytes);
        self.pods += 1;
        if let Some(count) = self.hosts.get_mut(group.workload.as_str()) {
            *count = count.saturating_sub(1);
        }
    }

    fn of_workload(&self, group: &PodGroup) -> u32 {
        self.hosts.get(group.workload.as_str()).copied().unwrap_or_default()
    }

    fn may_take(&self, node: &NodeName, group: &PodGroup) -> bool {
        self.open
            && group.may_be_on(node)
            && self.room.taints.is_subset(&group.tolerates)
            && group.node_labels.iter().all(|label| self.room.labels.contains(label))
    }

    fn keeps_apart(&self, group: &PodGroup) -> bool {
        !group.apart || self.of_workload(group) == 0
    }

    fn has_room(&self, group: &PodGroup) -> bool {
        // What asks for nothing fits where nothing is free.
        let fits = |asked: u64, free: i128| asked == 0 || i128::from(asked) <= free;
        self.pods >= 1 && fits(group.cpu_m, self.cpu_m) && fits(group.memory_bytes, self.memory_bytes)
    }
}

impl PodGroup {
    fn may_be_on(&self, node: &NodeName) -> bool {
        self.only_on.as_ref().is_none_or(|nodes| nodes.contains(node))
    }
}

impl<'a> Simulation<'a> {
    pub(super) fn of(workloads: &'a Workloads) -> Self {
        let sites = workloads.nodes.iter().map(|(name, room)| (name, Site::of(room.clone()))).collect();
        let budgets = workloads.budgets.clone();
        let owed = vec![0; budgets.len()];
        let mut simulation = Self { sites, budgets, owed, pods: Vec::new(), ready: BTreeMap::new() };
        for group in &workloads.pods {
            for node in &group.on {
                simulation.pods.push(Pod { group, place: Place::On(node) });
                if let Some(site) = simulation.sites.get_mut(node) {
                    site.take(group);
                }
                simulation.count_ready(group, 1);
            }
        }
        simulation
    }

    /// Where every pod is now.
    #[cfg(test)]
    pub(super) fn pods(&self) -> &[Pod<'a>] {
        &self.pods
    }

    /// Nodes on which more is asked for than there is.
    #[cfg(test)]
    pub(super) fn overcommitted(&self) -> usize {
        self.sites.values().filter(|site| site.cpu_m < 0 || site.memory_bytes < 0 || site.pods < 0).count()
    }

    /// The nodes that are there now.
    #[cfg(test)]
    pub(super) fn nodes(&self) -> Vec<&'a NodeName> {
        self.sites.keys().copied().collect()
    }

    /// How each budget stands now.
    #[cfg(test)]
    pub(super) fn budgets(&self) -> &[Budget] {
        &self.budgets
    }

    /// Cordons nodes, drains them and opens them again, as leases do that are held at once; what each met. One drain ends
    /// before the next begins, so what pods are without while both go on is not told.
    pub(super) fn drain<'n>(
        &mut self,
        nodes: impl Iterator<Item = (&'n NodeName, OnBlocked)>,
        policy: &Policy,
    ) -> Vec<(&'n NodeName, Vec<Met>)> {
        let mut cordoned: Vec<(&NodeName, OnBlocked, bool)> = Vec::new();
        for (node, word) in nodes {
            if let Some(site) = self.sites.get_mut(node) {
                cordoned.push((node, word, std::mem::replace(&mut site.open, false)));
            }
        }
        let met = cordoned.iter().map(|(node, word, _)| (*node, self.empty(node, *word, policy))).collect();
        for (node, _, open) in cordoned {
            if let Some(site) = self.sites.get_mut(node) {
                site.open = open;
            }
        }
        self.start_what_waits();
        met
    }

    /// Cordons a node that is not opened again, and drains it; what that met. Where the drain would wait or refuse, somebody has it go
    /// on in the end: what is left has to find room like all else.
    pub(super) fn empty_for_good(
        &mut self,
        node: &NodeName,
        on_blocked: OnBlocked,
        policy: &Policy,
    ) -> Vec<Met> {
        if let Some(site) = self.sites.get_mut(node) {
            site.open = false;
        }
        let mut met = self.empty(node, on_blocked, policy);
        self.vacate(node, &mut met);
        met
    }

    /// Takes a node out of the cluster, with whatever is on it: what starts pods again does so elsewhere. What that met.
    pub(super) fn remove(&mut self, node: &NodeName) -> Vec<Met> {
        let mut met = Vec::new();
        if let Some(site) = self.sites.get_mut(node) {
            site.open = false;
        }
        self.vacate(node, &mut met);
        self.sites.remove(node);
        met
    }

    /// Has what is left on a cordoned node start elsewhere, whatever its budgets say.
    fn vacate(&mut self, node: &NodeName, met: &mut Vec<Met>) {
        let left = self.left_on(node);
        for id in &left {
            self.overrule(*id);
        }
        self.start_all_again(met, left);
        for (_, _, what) in met {
            if let What::NoRoom { comes_back, .. } = what {
                *comes_back = false;
            }
        }
    }

    /// Has a machine join: what waits for room may find it there.
    pub(super) fn join(&mut self, node: &'a NodeName, room: Room) {
        self.sites.insert(node, Site::of(room));
        self.start_what_waits();
    }

    /// Has the scheduler prefer others to these nodes, and to these only.
    pub(super) fn avoid(&mut self, nodes: &BTreeSet<&NodeName>) {
        for (node, site) in &mut self.sites {
            site.avoided = nodes.contains(node);
        }
    }

    fn start_what_waits(&mut self) {
        for id in 0..self.pods.len() {
            if self.pods.get(id).is_some_and(|pod| pod.place == Place::Pending) {
                self.start_again(id);
            }
        }
    }

    fn left_on(&self, node: &NodeName) -> Vec<usize> {
        let on = |pod: &Pod<'_>| matches!(pod.place, Place::On(on) if on == node);
        (0..).zip(&self.pods).filter(|(_, pod)| on(pod)).map(|(id, _)| id).collect()
    }

    /// Evicts what is on a node; what that met.
    fn empty(&mut self, node: &NodeName, on_blocked: OnBlocked, policy: &Policy) -> Vec<Met> {
        let mut left = self.left_on(node);
        let mut met = Vec::new();
        for group in left.iter().filter_map(|&id| self.group(id)) {
            if let Some(why) = forbidden(group, policy) {
                tell(&mut met, group, What::Refused(why));
            }
        }
        if !met.is_empty() {
            return met;
        }
        while !left.is_empty() {
            let before = self.ready_before(&left);
            let (going, staying): (Vec<usize>, Vec<usize>) = left.iter().partition(|&&id| self.let_go(id));
            left = staying;
            if going.is_empty() {
                break;
            }
            self.tell_downtime(&mut met, &going, &before);
            self.start_all_again(&mut met, going);
        }
        for group in left.iter().filter_map(|&id| self.group(id)) {
            let budgets = group.budgets.iter().filter_map(|&at| self.budgets.get(at)).cloned().collect();
            tell(&mut met, group, What::Blocked { on_blocked, budgets });
        }
        if on_blocked == OnBlocked::Force {
            let before = self.ready_before(&left);
            for id in &left {
                self.overrule(*id);
            }
            self.tell_downtime(&mut met, &left, &before);
            self.start_all_again(&mut met, left);
        }
        met
    }

    fn start_all_again(&mut self, met: &mut Vec<Met>, gone: Vec<usize>) {
        for id in gone {
            if let Some((group, lack)) = self.start_again(id) {
                let (cpu_m, memory_bytes) = (group.cpu_m, group.memory_bytes);
                tell(met, group, What::NoRoom { cpu_m, memory_bytes, lack, comes_back: true });
            }
        }
    }

    /// How many pods of their workloads are ready.
    fn ready_before(&self, pods: &[usize]) -> BTreeMap<&'a str, u32> {
        let of_these = |id: &usize| {
            let workload = self.group(*id)?.workload.as_str();
            Some((workload, self.ready_of(workload)))
        };
        pods.iter().filter_map(of_these).collect()
    }

    fn group(&self, id: usize) -> Option<&'a PodGroup> {
        self.pods.get(id).map(|pod| pod.group)
    }

    /// Evicts a pod, if what says so lets it go. The rules are those of the API server
    /// (<https://github.com/kubernetes/kubernetes/blob/v1.30.0/pkg/registry/core/pod/storage/eviction.go>).
    fn let_go(&mut self, id: usize) -> bool {
        let Some(Pod { group, .. }) = self.pods.get(id) else { return false };
        let group = *group;
        match group.budgets.as_slice() {
            [] => {}
            [only] => {
                let Some(budget) = self.budgets.get_mut(*only) else { return false };
                let unhealthy = !group.ready
                    && (budget.unhealthy_may_go || (budget.healthy >= budget.needed && budget.needed > 0));
                if !unhealthy && budget.allowed == 0 {
                    return false;
                }
                // Its controller counts only what was ready.
                if group.ready {
                    budget.allowed -= 1;
                    budget.healthy = budget.healthy.saturating_sub(1);
                }
            }
            _ => return false,
        }
        self.leave(id);
        true
    }

    /// Deletes a pod that its budgets did not let go.
    fn overrule(&mut self, id: usize) {
        let Some(group) = self.group(id) else { return };
        for at in group.budgets.iter().filter(|_| group.ready) {
            if let (Some(budget), Some(owed)) = (self.budgets.get_mut(*at), self.owed.get_mut(*at)) {
                budget.healthy = budget.healthy.saturating_sub(1);
                match budget.allowed.checked_sub(1) {
                    Some(allowed) => budget.allowed = allowed,
                    None => *owed += 1,
                }
            }
        }
        self.leave(id);
    }

    /// Takes a pod off its node.
    fn leave(&mut self, id: usize) {
        let Some(Pod { group, place }) = self.pods.get_mut(id) else { return };
        let group = *group;
        if let Place::On(node) = *place
            && let Some(site) = self.sites.get_mut(node)
        {
            site.leave(group);
        }
        *place = if group.controlled { Place::Pending } else { Place::Gone };
        self.count_ready(group, -1);
    }

    /// Puts a pod that waits for a node on the one that suits it best; what is missing where there is none.
    fn start_again(&mut self, id: usize) -> Option<(&'a PodGroup, Lack)> {
        let pod = self.pods.get_mut(id)?;
        let group = pod.group;
        if pod.place == Place::Gone {
            return None;
        }
        let suits = self.sites.iter_mut().filter(|(node, site)| {
            site.may_take(node, group) && site.keeps_apart(group) && site.has_room(group)
        });
        // As the scheduler does unless it is told otherwise: spread a workload, then fill what is emptiest.
        let best =
            suits.min_by_key(|(_, site)| (site.avoided, site.of_workload(group), Reverse(site.memory_bytes)));
        let Some((node, site)) = best else {
            return Some((group, self.lack(group)));
        };
        site.take(group);
        pod.place = Place::On(node);
        self.count_ready(group, 1);
        for at in group.budgets.iter().filter(|_| group.ready) {
            if let (Some(budget), Some(owed)) = (self.budgets.get_mut(*at), self.owed.get_mut(*at)) {
                budget.healthy = budget.healthy.saturating_add(1);
                match owed.checked_sub(1) {
                    Some(less) => *owed = less,
                    None => budget.allowed = budget.allowed.saturating_add(1),
                }
            }
        }
        None
    }

    fn lack(&self, group: &PodGroup) -> Lack {
        let takers =
            || self.sites.iter().filter(|(node, site)| site.may_take(node, group)).map(|(_, site)| site);
        let rooms = || takers().filter(|site| site.keeps_apart(group));
        let most = |free: fn(&Site<'_>) -> i128| {
            u64::try_from(rooms().map(free).max().unwrap_or_default()).unwrap_or_default()
        };
        if takers().next().is_none() {
            let bound =
                group.only_on.as_ref().is_some_and(|nodes| !nodes.iter().any(|node| self.is_open(node)));
            if bound { Lack::Bound } else { Lack::Node }
        } else if rooms().next().is_none() {
            Lack::Apart
        } else {
            Lack::Room { cpu_m: most(|site| site.cpu_m), memory_bytes: most(|site| site.memory_bytes) }
        }
    }

    fn is_open(&self, node: &NodeName) -> bool {
        self.sites.get(node).is_some_and(|site| site.open)
    }

    fn ready_of(&self, workload: &str) -> u32 {
        self.ready.get(workload).copied().unwrap_or_default()
    }

    fn count_ready(&mut self, group: &'a PodGroup, change: i32) {
        if group.ready {
            let ready = self.ready.entry(&group.workload).or_default();
            *ready = ready.saturating_add_signed(change);
        }
    }

    /// Of the pods that were evicted at once: which workloads have nothing left that is ready, and how it came.
    fn tell_downtime(&self, met: &mut Vec<Met>, gone: &[usize], before: &BTreeMap<&str, u32>) {
        for group in gone.iter().filter_map(|&id| self.group(id)) {
            if !group.controlled {
                tell(met, group, What::Downtime(Cause::NoController));
            } else if group.is_of_a_job() {
                tell(met, group, What::Downtime(Cause::Interrupted));
            } else if group.ready && self.ready_of(&group.workload) == 0 {
                let had_one = before.get(group.workload.as_str()) == Some(&1);
                let cause = if had_one { Cause::OneReplica } else { Cause::AllOnOneNode };
                tell(met, group, What::Downtime(cause));
            }
        }
    }
}

/// What the plan's policy does not allow; as the drain sees it.
fn forbidden(group: &PodGroup, policy: &Policy) -> Option<Forbidden> {
    if !group.controlled && !policy.delete_unmanaged_pods {
        Some(Forbidden::Unmanaged)
    } else if group.empty_dir && !policy.delete_empty_dir_data {
        Some(Forbidden::EmptyDir)
    } else {
        None
    }
}

/// One more pod of a workload that meets this, at this drain.
fn tell(met: &mut Vec<Met>, group: &PodGroup, what: What) {
    let same = |(workload, _, known): &&mut Met| *workload == group.workload && known.is_like(&what);
    match met.iter_mut().find(same) {
        Some((_, pods, _)) => *pods += 1,
        None => met.push((group.workload.clone(), 1, what)),
    }
}
