//! Hooks of a node's own configuration.

use std::collections::VecDeque;
use std::time::Duration;

use super::children::Op;
use crate::hooks::Hooks;

/// A program that every hook runs.
pub const PROGRAM: &str = "/usr/local/sbin/hook";

/// What it leaves: in the agent's own folder, so that it is no part of the node that an undo brings back.
const TRACE: &str = "/var/lib/liftlock/hooked";

/// With this argument it fails.
const FAILS: &str = "--fail";

/// A configuration with these hooks: a name that begins with `bad` fails.
pub fn configuration(names: &[&str]) -> Hooks {
    let section = |name: &&str| {
        let argument = if name.starts_with("bad") { FAILS } else { name };
        format!("[{name}]\ncommand = ['{PROGRAM}', '{argument}']\n")
    };
    let text = names.iter().map(section).collect::<Vec<_>>().concat();
    Hooks { file: "/etc/liftlock/agent.toml".into(), commands: toml::from_str(&text).unwrap_or_default() }
}

/// What is left of the command line after `env -i`.
pub(super) fn script(words: &[&str]) -> Result<VecDeque<Op>, String> {
    let mut command = words.iter().skip_while(|word| word.contains('='));
    match (command.next(), command.next()) {
        (Some(&PROGRAM), Some(&FAILS)) => Ok([Op::GiveUp("no".to_owned())].into()),
        (Some(&PROGRAM), _) => Ok([
            Op::Say("hooked".to_owned()),
            Op::Elapse(Duration::from_secs(5)),
            Op::MakeFolder(TRACE.into()),
        ]
        .into()),
        (other, _) => Err(format!("no such command: {other:?}")),
    }
}
