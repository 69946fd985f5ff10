//! How etcd is restored from a snapshot by hand: the commands in their order, or why that would lose more than it saves.
//!
//! A member that is restored alone begins a cluster of its own with old data. So one member is restored only as a part of
//! all of them; where the others are a quorum, it is removed and added again, and takes its data from them.

mod tools;

use liftlock_proto::argv::{self, Argv, RESTORE_ASIDE as ASIDE, RestoredMember};
use liftlock_proto::name::NodeName;
use liftlock_proto::version::KubernetesVersion;

pub use self::tools::Tools;

const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// The static pods that need etcd.
const CLIENTS: [&str; 3] = ["kube-apiserver.yaml", "kube-controller-manager.yaml", "kube-scheduler.yaml"];

/// The control planes and what they know of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation {
    /// Every control plane with a member of etcd, in the order in which they are restored.
    pub members: Vec<Member>,
    /// Every other node.
    pub workers: Vec<NodeName>,
    /// What the members say that run; `None` where none answers.
    pub running: Option<Running>,
}

/// A member of etcd, as its node starts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The node, and the member's name.
    pub node: NodeName,
    /// `https://10.0.0.1:2380`
    pub peer_urls: String,
    /// `/var/lib/etcd`
    pub data_dir: String,
    /// How etcd's own tools are called there.
    pub tools: Tools,
    /// What its API server is started at; `None` where its manifest does not say.
    pub control_plane: Option<KubernetesVersion>,
}

/// An etcd that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// `3.5.15`
    pub version: String,
    /// The highest that any member reports.
    pub revision: u64,
    /// As they know each other.
    pub members: Vec<RunningMember>,
}

/// A member as the others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningMember {
    /// Its id.
    pub id: u64,
    /// Its name; empty until it has started for the first time.
    pub name: String,
    /// `https://10.0.0.1:2380`
    pub peer_urls: Vec<String>,
    /// It answers, has a vote and finds nothing wrong with itself.
    pub healthy: bool,
}

/// A snapshot that was rehearsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// On which node.
    pub node: NodeName,
    /// Where it lies there.
    pub path: String,
    /// etcd's revision in it.
    pub revision: u64,
    /// When it was taken, as people read it.
    pub taken_at: String,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// Run this on the node.
    Run(Argv),
    /// Run this on the node, and again until it ends as it should.
    Repeat(Argv, Until),
    /// What no command does by itself.
    Do(String),
}

/// What a repeated command is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It succeeds.
    Succeeds,
    /// It succeeds and prints nothing.
    PrintsNothing,
}

/// Things to do on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// What for.
    pub title: String,
    /// Where; `None`: on the operator's own machine.
    pub node: Option<NodeName>,
    /// In this order.
    pub instructions: Vec<Instruction>,
}

/// What a restore loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing was written after the snapshot.
    Nothing,
    /// So many revisions were written after it.
    Revisions(u64),
    /// The running etcd is older than the snapshot: they are not of one history.
    AnotherHistory,
    /// No member answers, so nobody knows.
    Unknown,
}

impl Situation {
    /// What is lost with a snapshot of this revision.
    pub fn loss(&self, revision: u64) -> Loss {
        match self.running.as_ref().map(|running| running.revision) {
            None => Loss::Unknown,
            Some(now) if now == revision => Loss::Nothing,
            Some(now) if now < revision => Loss::AnotherHistory,
            Some(now) => Loss::Revisions(now - revision),
        }
    }

    /// Whether the members without this one are a quorum of all of them, so that it needs no snapshot.
    pub fn others_are_a_quorum(&self, node: &NodeName) -> bool {
        let Some(running) = &self.running else {
            return false;
        };
        let healthy = running.members.iter().filter(|member| member.healthy && member.name != node.as_str());
        let all = running.members.len();
        all > 1 && healthy.count() > all / 2
    }

    /// The whole cluster out of one snapshot.
    pub fn restore(&self, snapshot: &Snapshot) -> Vec<Stage> {
        let initial_cluster: Vec<String> =
            self.members.iter().map(|member| format!("{}={}", member.node, member.peer_urls)).collect();
        let initial_cluster = initial_cluster.join(",");
        let token = format!("liftlock-{}-{}", snapshot.node, snapshot.revision);
        let mut stages = Vec::new();
        for member in &self.members {
            stages.push(stage("stop the control plane", member, stop()));
        }
        let elsewhere: Vec<&Member> =
            self.members.iter().filter(|member| member.node != snapshot.node).collect();
        if !elsewhere.is_empty() {
            let bring = elsewhere.iter().map(|member| {
                let from = format!("root@{}:{}", snapshot.node, snapshot.path);
                run(&["scp", "-3", "-p", &from, &format!("root@{}:{}", member.node, brought())])
            });
            let title = "bring the snapshot to the other control planes".to_owned();
            stages.push(Stage { title, node: None, instructions: bring.collect() });
        }
        for member in &self.members {
            let path = if member.node == snapshot.node { snapshot.path.clone() } else { brought() };
            // Beside the old data and not in its place: the folder may be a file system of its own.
            let restored_to = format!("{}/liftlock-restored", member.data_dir);
            let restored = RestoredMember {
                name: member.node.as_str(),
                peer_urls: &member.peer_urls,
                data_dir: &restored_to,
                initial_cluster: &initial_cluster,
                token: &token,
            };
            let restore = member
                .tools
                .restore(&member.data_dir, |program| argv::etcd_restore(program, &path, &restored));
            let mut instructions: Vec<Instruction> =
                member.tools.missing(self.version()).map(Instruction::Do).into_iter().collect();
            instructions.extend(aside(member));
            instructions.push(Instruction::Run(restore));
            let (from, to) = (format!("{restored_to}/member"), format!("{}/member", member.data_dir));
            instructions.push(run(&["mv", "--no-target-directory", &from, &to]));
            instructions.push(run(&["rmdir", &restored_to]));
            stages.push(stage("restore its data", member, instructions));
        }
        for member in &self.members {
            stages.push(stage("start etcd", member, vec![back("etcd.yaml")]));
        }
        if let Some(member) = self.members.first() {
            stages.push(stage("wait until every member is healthy", member, vec![health(member)]));
        }
        for member in &self.members {
            stages.push(rest(member));
        }
        if let Some(member) = self.members.first() {
            let ready = Instruction::Repeat(kubectl(&["get", "--raw=/readyz"]), Until::Succeeds);
            stages.push(stage("wait until the API is ready", member, vec![ready]));
        }
        // They watch from revisions on that are gone now.
        let workers = self.workers.iter().map(|node| kubelet("let the kubelet see what is there now", node));
        stages.extend(workers);
        if let Some(member) = self.members.first() {
            let title = "let the cluster know which version its nodes run";
            stages.push(stage(title, member, vec![again(member)]));
        }
        // A kubelet of 1.20 was seen never to let go of a kube-proxy that was replaced before the kubelet had started it.
        let everywhere = self.members.iter().map(|member| &member.node).chain(&self.workers);
        stages.extend(everywhere.map(|node| kubelet("let the kubelet begin with what is there now", node)));
        stages
    }

    /// One member anew, with its data from the others. `None` where it is not among those that are known.
    pub fn replace(&self, node: &NodeName) -> Option<Vec<Stage>> {
        let running = self.running.as_ref()?;
        let member = self.members.iter().find(|member| member.node == *node)?;
        let healthy = |name: &NodeName| {
            running.members.iter().any(|other| other.healthy && other.name == name.as_str())
        };
        let helper = self.members.iter().find(|other| other.node != *node && healthy(&other.node))?;
        let mut stages = vec![stage("stop the control plane", member, stop())];
        let (gone, others): (Vec<_>, Vec<_>) =
            running.members.iter().partition(|known| known.name == node.as_str() || known.is_at(member));
        let tool = |words: &[&str]| helper.tools.etcdctl(&helper.data_dir, words);
        let mut remove: Vec<Instruction> =
            helper.tools.missing(self.version()).map(Instruction::Do).into_iter().collect();
        remove.extend(
            gone.iter()
                .map(|known| Instruction::Run(tool(&["member", "remove", &format!("{:x}", known.id)]))),
        );
        if !remove.is_empty() {
            stages.push(stage("remove the member", helper, remove));
        }
        stages.push(stage("move its data aside", member, aside(member)));
        let peers = format!("--peer-urls={}", member.peer_urls);
        let add = Instruction::Run(tool(&["member", "add", node.as_str(), &peers]));
        stages.push(stage("add it again", helper, vec![add]));
        // All of them, healthy or not: etcd compares it with the members that there are.
        let others = others
            .iter()
            .flat_map(|known| known.peer_urls.iter().map(move |url| format!("{}={url}", known.name)));
        let initial_cluster: Vec<String> = others.chain([format!("{node}={}", member.peer_urls)]).collect();
        let mut start = tell(&initial_cluster.join(","));
        start.push(back("etcd.yaml"));
        stages.push(stage("start etcd", member, start));
        // Asked of itself: the others do not count one that has not started yet.
        let mut wait: Vec<Instruction> =
            member.tools.missing(self.version()).map(Instruction::Do).into_iter().collect();
        wait.push(health(member));
        stages.push(stage("wait until every member is healthy", member, wait));
        stages.push(rest(member));
        Some(stages)
    }

    fn version(&self) -> Option<&str> {
        self.running.as_ref().map(|running| running.version.as_str())
    }
}

impl RunningMember {
    /// Whether its peers reach it where they would reach this one.
    fn is_at(&self, member: &Member) -> bool {
        self.peer_urls.contains(&member.peer_urls)
    }
}

fn stage(title: &str, member: &Member, instructions: Vec<Instruction>) -> Stage {
    Stage { title: title.to_owned(), node: Some(member.node.clone()), instructions }
}

fn run(words: &[&str]) -> Instruction {
    Instruction::Run(words.iter().map(|&word| word.to_owned()).collect())
}

/// The kubelet ends the pods of manifests that go.
fn stop() -> Vec<Instruction> {
    let manifests = CLIENTS.iter().chain(&["etcd.yaml"]).map(|manifest| format!("{MANIFESTS}/{manifest}"));
    let mut mv = vec!["mv".to_owned()];
    mv.extend(manifests.chain([format!("{ASIDE}/")]));
    let running = ["crictl", "ps", "--quiet", "--name", "^(etcd|kube-apiserver)$"];
    vec![
        run(&["mkdir", "--parents", "--mode=0700", ASIDE]),
        Instruction::Run(mv),
        Instruction::Repeat(running.map(str::to_owned).to_vec(), Until::PrintsNothing),
    ]
}

/// Moves what a member has aside, also where nothing is left of it, and what an earlier restore moved aside stays.
fn aside(member: &Member) -> Vec<Instruction> {
    let data = format!("{}/member", member.data_dir);
    vec![
        run(&["mkdir", "--parents", "--mode=0700", &member.data_dir, &data]),
        run(&["mv", "--backup=numbered", "--no-target-directory", &data, &format!("{data}.before-restore")]),
    ]
}

/// Names the members in the manifest that waits aside, as kubeadm would have written it on a node that joins.
fn tell(initial_cluster: &str) -> Vec<Instruction> {
    let manifest = format!("{ASIDE}/etcd.yaml");
    let flags = format!(
        r"s|^( *- )--initial-cluster=.*|\1--initial-cluster={initial_cluster}\n\1--initial-cluster-state=existing|"
    );
    let edit =
        ["sed", "--in-place", "--regexp-extended", "-e", "/^ *- --initial-cluster-state=/d", "-e", &flags];
    vec![
        run(&[&edit[..], &[&manifest]].concat()),
        run(&[
            "grep",
            "--fixed-strings",
            &format!("--regexp=--initial-cluster={initial_cluster}"),
            &manifest,
        ]),
    ]
}

fn health(member: &Member) -> Instruction {
    let asked = member.tools.etcdctl(&member.data_dir, &["endpoint", "health", "--cluster"]);
    Instruction::Repeat(asked, Until::Succeeds)
}

fn rest(member: &Member) -> Stage {
    let instructions = CLIENTS.iter().map(|manifest| back(manifest)).chain([restart_kubelet()]).collect();
    stage("start the rest of the control plane", member, instructions)
}

fn back(manifest: &str) -> Instruction {
    run(&["mv", &format!("{ASIDE}/{manifest}"), &format!("{MANIFESTS}/")])
}

fn kubelet(title: &str, node: &NodeName) -> Stage {
    Stage { title: title.to_owned(), node: Some(node.clone()), instructions: vec![restart_kubelet()] }
}

fn restart_kubelet() -> Instruction {
    Instruction::Run(argv::systemctl_restart_kubelet())
}

/// The snapshot may be older than the last upgrade: kubeadm-config, kube-proxy and the kubelets' configuration in it are
/// then of the version before, and kubeadm, Liftlock and the operator would take that for the cluster's.
fn again(member: &Member) -> Instruction {
    let upgrade =
        |version| Instruction::Repeat(argv::kubeadm_upgrade_apply_force(version, &[]), Until::Succeeds);
    member.control_plane.map_or_else(
        || {
            Instruction::Do(
                "run `kubeadm upgrade apply VERSION --force` with the version that the nodes run".to_owned(),
            )
        },
        upgrade,
    )
}

fn kubectl(words: &[&str]) -> Argv {
    [&["kubectl", "--kubeconfig=/etc/kubernetes/admin.conf"], words]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
}

/// Where the snapshot lies on a node that it was brought to: a folder that only root can look into.
fn brought() -> String {
    format!("{ASIDE}/etcd-snapshot.db")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn situation(members: usize, healthy: &[usize]) -> Situation {
        let member = |n: usize| Member {
            node: format!("cp{n}").parse().unwrap(),
            peer_urls: format!("https://10.0.0.{n}:2380"),
            data_dir: "/var/lib/etcd".to_owned(),
            tools: match n {
                1 => Tools::Installed("etcdctl 3.5.15".to_owned()),
                2 => Tools::Missing,
                _ => Tools::Image("registry.k8s.io/etcd:3.5.15-0".to_owned()),
            },
            control_plane: Some("v1.30.4".parse().unwrap()),
        };
        let running = |n: usize| RunningMember {
            id: 0xa0 + n as u64,
            name: format!("cp{n}"),
            peer_urls: vec![format!("https://10.0.0.{n}:2380")],
            healthy: healthy.contains(&n),
        };
        Situation {
            members: (1..=members).map(member).collect(),
            workers: vec!["w1".parse().unwrap()],
            running: (!healthy.is_empty()).then(|| Running {
                version: "3.5.15".to_owned(),
                revision: 1000,
                members: (1..=members).map(running).collect(),
            }),
        }
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            node: "cp1".parse().unwrap(),
            path: "/etc/kubernetes/tmp/b/etcd-snapshot.db".to_owned(),
            revision: 900,
            taken_at: "2026-11-21T15:00:07Z".to_owned(),
        }
    }

    /// `cp1: mv a b`, in order.
    fn lines(stages: &[Stage]) -> Vec<String> {
        let line = |stage: &Stage, instruction: &Instruction| {
            let place = stage.node.as_ref().map_or("here", NodeName::as_str);
            match instruction {
                Instruction::Run(argv) | Instruction::Repeat(argv, _) => {
                    format!("{place}: {}", argv.join(" "))
                }
                Instruction::Do(what) => format!("{place}: ({what})"),
            }
        };
        stages.iter().flat_map(|stage| stage.instructions.iter().map(move |i| line(stage, i))).collect()
    }

    fn position(lines: &[String], wanted: &str) -> usize {
        lines.iter().position(|line| line.contains(wanted)).unwrap_or_else(|| panic!("{wanted}: {lines:#?}"))
    }

    #[test]
    fn a_loss_is_what_was_written_after_the_snapshot() {
        let running = situation(3, &[1, 2, 3]);
        assert_eq!(running.loss(1000), Loss::Nothing);
        assert_eq!(running.loss(900), Loss::Revisions(100));
        assert_eq!(running.loss(1001), Loss::AnotherHistory);
        assert_eq!(situation(3, &[]).loss(900), Loss::Unknown);
    }

    #[test]
    fn a_member_needs_no_snapshot_where_the_others_are_a_quorum() {
        let cp3: NodeName = "cp3".parse().unwrap();
        assert!(situation(3, &[1, 2]).others_are_a_quorum(&cp3));
        assert!(situation(3, &[1, 2, 3]).others_are_a_quorum(&cp3));
        assert!(!situation(3, &[1, 3]).others_are_a_quorum(&cp3));
        assert!(!situation(3, &[]).others_are_a_quorum(&cp3));
        assert!(
            !situation(2, &[1, 2]).others_are_a_quorum(&"cp2".parse().unwrap()),
            "one of two is no quorum"
        );
        assert!(!situation(1, &[1]).others_are_a_quorum(&"cp1".parse().unwrap()));
    }

    #[test]
    fn nothing_starts_before_everything_stopped_and_every_member_is_told_all_of_them() {
        let lines = lines(&situation(3, &[1]).restore(&snapshot()));
        let last_stop = position(&lines, "cp3: mv /etc/kubernetes/manifests/");
        let first_restore =
            position(&lines, "cp1: etcdctl snapshot restore /etc/kubernetes/tmp/b/etcd-snapshot.db");
        let last_restore = position(&lines, "etcd:3.5.15-0 liftlock-etcd etcdctl snapshot restore");
        let first_start = position(&lines, "cp1: mv /etc/kubernetes/liftlock-restore/etcd.yaml");
        let health = position(&lines, "endpoint health");
        let clients = position(&lines, "liftlock-restore/kube-apiserver.yaml");
        assert!(last_stop < first_restore && first_restore < last_restore && last_restore < first_start);
        assert!(first_start < health && health < clients, "{lines:#?}");
        assert!(clients < position(&lines, "w1: systemctl restart kubelet"));
        let version = position(&lines, "cp1: kubeadm upgrade apply v1.30.4 --force --yes");
        assert!(
            lines[version + 1..].iter().all(|line| line.ends_with(": systemctl restart kubelet.service"))
        );
        assert_eq!(lines.len() - version - 1, 4, "every node's");
        let restores: Vec<&String> = lines.iter().filter(|line| line.contains("snapshot restore")).collect();
        let all =
            "--initial-cluster=cp1=https://10.0.0.1:2380,cp2=https://10.0.0.2:2380,cp3=https://10.0.0.3:2380";
        assert!(restores.len() == 3 && restores.iter().all(|line| line.contains(all)), "{restores:#?}");
        assert!(restores.iter().all(|line| line.contains("--initial-cluster-token=liftlock-cp1-900")));
        let scp =
            position(&lines, "here: scp -3 -p root@cp1:/etc/kubernetes/tmp/b/etcd-snapshot.db root@cp2:");
        assert!(scp > last_stop, "the folder that it goes to is made before");
    }

    #[test]
    fn data_is_moved_aside_and_never_removed() {
        for stages in [
            situation(3, &[1]).restore(&snapshot()),
            situation(3, &[1, 2]).replace(&"cp3".parse().unwrap()).unwrap(),
        ] {
            let lines = lines(&stages);
            let aside = "--backup=numbered --no-target-directory /var/lib/etcd/member /var/lib/etcd/member.before-restore";
            assert!(lines.iter().any(|line| line.contains(aside)), "{lines:#?}");
            assert!(!lines.iter().any(|line| line.contains(" rm ")), "{lines:#?}");
        }
    }

    #[test]
    fn a_member_is_removed_and_added_again_by_one_that_is_healthy() {
        let lines = lines(&situation(3, &[2, 3]).replace(&"cp1".parse().unwrap()).unwrap());
        let remove = position(&lines, "cp2: etcdctl --endpoints");
        assert!(lines[remove].ends_with("member remove a1"), "{}", lines[remove]);
        let add = position(&lines, "member add cp1 --peer-urls=https://10.0.0.1:2380");
        assert!(lines[add].starts_with("cp2: ") && remove < add);
        let health = position(&lines, "endpoint health --cluster");
        assert!(lines[health].starts_with("cp1: "), "{}", lines[health]);
        assert!(
            position(&lines, "--initial-cluster=cp2=https://10.0.0.2:2380,cp3=https://10.0.0.3:2380,cp1=")
                > add
        );
    }

    #[test]
    fn a_member_that_was_added_and_has_not_started_is_removed_like_any_other() {
        let mut situation = situation(3, &[2, 3]);
        situation.running.as_mut().unwrap().members[0].name.clear();
        let lines = lines(&situation.replace(&"cp1".parse().unwrap()).unwrap());
        assert!(lines[position(&lines, "member remove")].ends_with("member remove a1"), "{lines:#?}");
    }

    #[test]
    fn a_member_that_joins_is_told_of_one_that_is_down_too() {
        let lines = lines(&situation(5, &[2, 3, 4]).replace(&"cp1".parse().unwrap()).unwrap());
        let start = &lines[position(&lines, "sed --in-place")];
        assert!(start.contains(",cp5=https://10.0.0.5:2380,cp1=https://10.0.0.1:2380"), "{start}");
    }

    #[test]
    fn each_tool_is_called_as_its_node_has_it() {
        let lines = lines(&situation(3, &[3]).restore(&snapshot()));
        position(&lines, "cp1: etcdctl snapshot restore");
        position(&lines, "cp3: ctr --namespace k8s.io run");
        assert!(
            position(&lines, "cp2: (install etcdctl here first (of etcd 3.5.15")
                < position(&lines, "cp2: etcdctl snapshot restore")
        );
    }

    #[test]
    fn one_that_is_alone_brings_its_snapshot_nowhere() {
        let lines = lines(&situation(1, &[]).restore(&snapshot()));
        assert!(!lines.iter().any(|line| line.contains("scp")), "{lines:#?}");
    }
}
