//! What a finding says to people: what, why, and what to do.

use std::fmt::{self, Display, Formatter};

use liftlock_proto::blocked::OnBlocked;

use super::{Budget, Cause, Finding, Forbidden, Lack, What};

impl Display for Finding {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { node, workload, pods, what, .. } = self;
        let of_them = Count(*pods);
        match what {
            What::Blocked { on_blocked, budgets } => {
                let mend = match budgets.as_slice() {
                    [budget] => {
                        write!(
                            f,
                            "the drain of {node} will wait for the budget {budget}; {of_them} of {workload} cannot go"
                        )?;
                        "scale it up or loosen the budget before that node's turn"
                    }
                    several => {
                        let names: Vec<&str> = several.iter().map(|budget| budget.name.as_str()).collect();
                        write!(
                            f,
                            "the drain of {node} will wait for ever: the API evicts no pod that has more than one budget, \
                             and {of_them} of {workload} would need the word of {}",
                            names.join(" and ")
                        )?;
                        "leave it one"
                    }
                };
                match on_blocked {
                    OnBlocked::Pause => write!(f, ": {mend}"),
                    OnBlocked::Skip => write!(
                        f,
                        ". After its time limit {node} is put back and passed over, and the roll-out asks for it at the end; to \
                         have it raised, {mend}"
                    ),
                    OnBlocked::Force => {
                        let they = if *pods == 1 { "it is" } else { "they are" };
                        write!(
                            f,
                            ". After its time limit {they} deleted whatever the budget says; to have them kept, {mend}",
                        )
                    }
                }
            }
            What::Refused(Forbidden::Unmanaged) => write!(
                f,
                "the drain of {node} will refuse: no controller would start {workload} again (move it, or allow it with \
                 --delete-unmanaged-pods)"
            ),
            What::Refused(Forbidden::EmptyDir) => write!(
                f,
                "the drain of {node} will refuse: {of_them} of {workload} would lose the data in an emptyDir (allow it with \
                 --delete-empty-dir-data)"
            ),
            What::Downtime(Cause::Interrupted) => write!(
                f,
                "{of_them} of {workload} will be interrupted, first at the drain of {node}, and start over, as far as its \
                 backoffLimit lets them"
            ),
            What::Downtime(Cause::OneReplica) => write!(
                f,
                "{workload} is down while its one ready pod moves, first at the drain of {node}: give it a second one"
            ),
            What::Downtime(Cause::AllOnOneNode) => write!(
                f,
                "{workload} is down at the drain of {node}: all {pods} of its ready pods are there by then and go at once; spread \
                 them, or give it a budget"
            ),
            What::Downtime(Cause::NoController) => {
                write!(f, "{workload} ends at the drain of {node}, and no controller starts it again")
            }
            What::NoRoom { cpu_m, memory_bytes, lack, comes_back } => {
                let when = if *comes_back { "while" } else { "once" };
                write!(f, "{of_them} of {workload} will not fit elsewhere {when} {node} is drained: ")?;
                match lack {
                    Lack::Node => {
                        f.write_str("no other node is schedulable, has its labels and no taint against it")
                    }
                    Lack::Bound => f.write_str(
                        "a volume that lies on one node, or a rule, binds them to nodes by name, and no other one of these takes pods",
                    ),
                    Lack::Apart => {
                        f.write_str("no two of them share a node, and every other that takes them has one")
                    }
                    Lack::Room { cpu_m: most_cpu_m, memory_bytes: most_bytes } => write!(
                        f,
                        "each asks for {} and {}, and at most {} and {} are free on another node that takes them",
                        Cpu(*cpu_m),
                        Memory(*memory_bytes),
                        Cpu(*most_cpu_m),
                        Memory(*most_bytes)
                    ),
                }?;
                f.write_str(if *comes_back {
                    "; until it is back they are pending"
                } else {
                    "; it does not come back, and they are pending until something else has room for them"
                })
            }
        }
    }
}

impl Display for Budget {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, rule, allowed, healthy, needed, .. } = self;
        write!(f, "{name} ({rule}: {allowed} may go, {healthy} healthy, {needed} needed)")
    }
}

struct Count(u32);

impl Display for Count {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(pods) = self;
        write!(f, "{pods} pod{}", if *pods == 1 { "" } else { "s" })
    }
}

/// Thousandths of a CPU: `0.25 CPU`, `2 CPU`.
struct Cpu(u64);

impl Display for Cpu {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{whole} CPU");
        }
        write!(f, "{whole}.{} CPU", format!("{rest:03}").trim_end_matches('0'))
    }
}

/// Bytes: `128 MiB`.
struct Memory(u64);

impl Display for Memory {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
}
