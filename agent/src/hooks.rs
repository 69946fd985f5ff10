//! `[hooks.NAME]` in the agent's configuration: what a plan may name to be run on this node. The network has no say in it.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::argv::Argv;
use liftlock_proto::hooks::check_name;
use liftlock_proto::v1::HookFacts;
use serde::Deserialize;

use crate::host::{Host, HostResult};
use crate::protect::rules::clean;
use crate::trust::distrust;

/// Every hook of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// The file that they stand in.
    pub file: Utf8PathBuf,
    /// What each name stands for.
    pub commands: HookCommands,
}

/// What each name stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, Words>")]
pub struct HookCommands(BTreeMap<String, Argv>);

/// As the configuration has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Words {
    command: Argv,
}

impl TryFrom<BTreeMap<String, Words>> for HookCommands {
    type Error = String;

    fn try_from(words: BTreeMap<String, Words>) -> Result<Self, String> {
        for (name, Words { command }) in &words {
            check_name(name).map_err(|why| format!("[hooks.{name}] {why}"))?;
            let program = command.first().map(String::as_str).unwrap_or_default();
            clean(program).map_err(|why| format!("[hooks.{name}] command: the program {program:?} {why}"))?;
            // Before it stand assignments.
            if program.contains('=') {
                return Err(format!(
                    "[hooks.{name}] command: the program {program:?} has a `=` in its path: give it another"
                ));
            }
        }
        Ok(Self(words.into_iter().map(|(name, Words { command })| (name, command)).collect()))
    }
}

impl HookCommands {
    /// What a name stands for, as on a real node.
    pub fn get(&self, name: &str) -> Option<&Argv> {
        self.0.get(name)
    }

    /// Every name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl Hooks {
    /// The command as it is run here; `None` where the configuration has none of that name.
    pub fn argv(&self, name: &str, host: &Host) -> Option<Argv> {
        let mut argv = self.commands.get(name)?.clone();
        if let Some(program) = argv.first_mut() {
            *program = host.layout.at(program).into_string();
        }
        Some(argv)
    }

    /// Why a command cannot be run as things are, as far as can be seen beforehand.
    pub async fn refusal(&self, argv: &Argv, host: &Host) -> HostResult<Option<String>> {
        let program = Utf8Path::new(argv.first().map(String::as_str).unwrap_or_default());
        if !host.files.exists(program).await? {
            return Ok(Some(format!("its program {program} is not there: install it")));
        }
        match distrust(host.trees.as_ref(), &host.layout, &self.file).await? {
            Some(why) => Ok(Some(why)),
            None => distrust(host.trees.as_ref(), &host.layout, program).await,
        }
    }

    /// What the coordinator is told.
    pub async fn facts(&self, host: &Host) -> HostResult<Vec<HookFacts>> {
        let mut facts = Vec::new();
        for name in self.commands.names() {
            let argv = self.argv(name, host).unwrap_or_default();
            let refusal = self.refusal(&argv, host).await?.unwrap_or_default();
            facts.push(HookFacts { name: name.to_owned(), refusal });
        }
        Ok(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<HookCommands, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.to_string())
    }

    #[test]
    fn a_hook_is_a_name_for_a_program_by_its_absolute_path_and_its_arguments() {
        let hooks = read("[lb-out]\ncommand = ['/usr/local/sbin/lb', '--out; true']\n").unwrap();
        assert_eq!(hooks.get("lb-out").unwrap(), &["/usr/local/sbin/lb", "--out; true"]);
        for (text, part) in [
            ("[x]\ncommand = ['lb']", "absolute"),
            ("[x]\ncommand = []", "the program \"\""),
            ("[x]\ncommand = ['/a/../b']", "`..`"),
            ("[x]\ncommand = ['/a=b']", "has a `=`"),
            ("[X]\ncommand = ['/a']", "is no name of a hook"),
            ("[x]\ncommand = ['/a']\nshell = true", "shell"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(part), "{part}: {why}");
        }
    }
}
