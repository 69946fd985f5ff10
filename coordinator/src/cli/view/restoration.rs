//! How etcd is restored by hand.

use std::fmt::Write as _;

use liftlock_proto::name::NodeName;
use serde::Serialize;

use crate::cli::output::View;
use crate::cli::paint::{Paint, Tone};
use crate::core::restoration::{Instruction, Loss, Snapshot, Stage, Until};

/// What to do, in order.
#[derive(Debug, Serialize)]
pub struct RestorationView {
    /// `restore-cluster` or `replace-member`
    pub way: &'static str,
    /// The member that is replaced.
    pub member: Option<String>,
    /// What the cluster is restored from.
    pub snapshot: Option<SnapshotView>,
    /// What is lost, for people.
    pub loss: Option<String>,
    /// Revisions that are lost; null where nobody knows.
    pub lost_revisions: Option<u64>,
    /// In this order, each finished before the next.
    pub stages: Vec<StageView>,
}

/// The snapshot that was rehearsed.
#[derive(Debug, Serialize)]
pub struct SnapshotView {
    /// On which node.
    pub node: String,
    /// The backup's name.
    pub backup: String,
    /// Where it lies there.
    pub path: String,
    /// etcd's revision in it.
    pub revision: u64,
    /// When it was taken.
    pub taken_at: String,
}

/// Things to do in one place.
#[derive(Debug, Serialize)]
pub struct StageView {
    /// What for.
    pub title: String,
    /// Where; null: on the operator's own machine.
    pub node: Option<String>,
    /// In this order.
    pub instructions: Vec<InstructionView>,
}

/// One thing to do: either `run` or `do` is null.
#[derive(Debug, Serialize)]
pub struct InstructionView {
    /// A command's arguments.
    pub run: Option<Vec<String>>,
    /// The command is repeated until it `succeeds`, or until it succeeds and `prints-nothing`; null: it is run once.
    pub until: Option<&'static str>,
    /// What no command does by itself.
    pub r#do: Option<String>,
}

impl RestorationView {
    /// The whole cluster from a snapshot.
    pub fn restore(
        backup: &str,
        snapshot: &Snapshot,
        loss: Loss,
        in_words: &str,
        stages: Vec<Stage>,
    ) -> Self {
        Self {
            way: "restore-cluster",
            member: None,
            snapshot: Some(SnapshotView {
                node: snapshot.node.to_string(),
                backup: backup.to_owned(),
                path: snapshot.path.clone(),
                revision: snapshot.revision,
                taken_at: snapshot.taken_at.clone(),
            }),
            loss: Some(in_words.to_owned()),
            lost_revisions: match loss {
                Loss::Nothing => Some(0),
                Loss::Revisions(count) => Some(count),
                Loss::AnotherHistory | Loss::Unknown => None,
            },
            stages: stages.into_iter().map(Into::into).collect(),
        }
    }

    /// One member anew, with its data from the others.
    pub fn replacement(node: &NodeName, stages: Vec<Stage>) -> Self {
        Self {
            way: "replace-member",
            member: Some(node.to_string()),
            snapshot: None,
            loss: None,
            lost_revisions: None,
            stages: stages.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Stage> for StageView {
    fn from(Stage { title, node, instructions }: Stage) -> Self {
        let node = node.map(String::from);
        Self { title, node, instructions: instructions.into_iter().map(Into::into).collect() }
    }
}

impl From<Instruction> for InstructionView {
    fn from(instruction: Instruction) -> Self {
        match instruction {
            Instruction::Run(argv) => Self { run: Some(argv), until: None, r#do: None },
            Instruction::Repeat(argv, Until::Succeeds) => {
                Self { run: Some(argv), until: Some("succeeds"), r#do: None }
            }
            Instruction::Repeat(argv, Until::PrintsNothing) => {
                Self { run: Some(argv), until: Some("prints-nothing"), r#do: None }
            }
            Instruction::Do(what) => Self { run: None, until: None, r#do: Some(what) },
        }
    }
}

/// As a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

impl View for RestorationView {
    fn table(&self, paint: Paint) -> String {
        let mut text = String::new();
        if let Some(loss) = &self.loss {
            let _ = writeln!(text, "{}", paint.paint(Tone::Notice, loss));
        }
        for (number, stage) in (1..).zip(&self.stages) {
            let place = stage.node.as_ref().map_or_else(String::new, |node| format!("on {node}: "));
            let title = format!("{number}. {place}{}", stage.title);
            let _ = writeln!(text, "{}", paint.paint(Tone::Strong, &title));
            for instruction in &stage.instructions {
                if let Some(argv) = &instruction.run {
                    let words: Vec<String> = argv.iter().map(|word| quoted(word)).collect();
                    let _ = writeln!(text, "   {}", words.join(" "));
                }
                if let Some(until) = instruction.until {
                    let _ = writeln!(text, "   # again, until it {}", until.replace('-', " "));
                }
                if let Some(what) = &instruction.r#do {
                    let _ = writeln!(text, "   # {what}");
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_given_to_a_shell_as_it_is_shown() {
        assert_eq!(quoted("--name=cp1"), "--name=cp1");
        assert_eq!(quoted("^(etcd|kube-apiserver)$"), "'^(etcd|kube-apiserver)$'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
