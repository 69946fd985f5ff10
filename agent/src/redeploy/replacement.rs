//! `[redeploy]` in the agent's configuration: how this host is replaced. The network has no say in it.

use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use jiff::SignedDuration;
use liftlock_proto::argv::Argv;
use liftlock_proto::v1::RedeployFacts;
use serde::Deserialize;

use crate::host::trees::{Mount, Survey};
use crate::host::{Host, HostResult, Layout, Limits};
use crate::protect::rules::clean;
use crate::trust::distrust;

/// How long the command may take where nobody says otherwise.
const TIME: Duration = Duration::from_hours(1);

/// How long it may say nothing: an image that is unpacked says little.
const SILENCE: Duration = Duration::from_mins(30);

/// How this host is replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Words")]
pub struct Replacement {
    /// An absolute path and its arguments, as on a real node.
    pub command: Argv,
    /// The folder that outlives the system: absolute, as on a real node.
    pub store: Utf8PathBuf,
    /// What else outlives it where it is, and is not exported.
    pub keeps: Vec<Utf8PathBuf>,
    /// What the command is held to.
    pub limits: Limits,
}

/// As the configuration has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Words {
    command: Argv,
    store: String,
    #[serde(default)]
    keeps: Vec<String>,
    time_limit: Option<SignedDuration>,
    silence_limit: Option<SignedDuration>,
}

impl TryFrom<Words> for Replacement {
    type Error = String;

    fn try_from(words: Words) -> Result<Self, String> {
        let path = |what: &str, path: &str| clean(path).map_err(|why| format!("{what} {path:?} {why}"));
        let limit = |limit: Option<SignedDuration>, usual: Duration| {
            let limit = limit.map_or(Ok(usual), Duration::try_from).ok().filter(|limit| !limit.is_zero());
            limit.ok_or_else(|| "a limit is zero or negative".to_owned())
        };
        path("the command", words.command.first().map(String::as_str).unwrap_or_default())?;
        Ok(Self {
            store: path("the store", &words.store)?,
            keeps: words.keeps.iter().map(|kept| path("what is kept,", kept)).collect::<Result<_, _>>()?,
            limits: Limits {
                time: limit(words.time_limit, TIME)?,
                silence: limit(words.silence_limit, SILENCE)?,
            },
            command: words.command,
        })
    }
}

impl Replacement {
    /// The store on this node.
    pub fn store(&self, layout: &Layout) -> Utf8PathBuf {
        layout.at(self.store.as_str())
    }

    /// Whether the configuration says of a path that it outlives the system where it is.
    pub fn keeps(&self, path: &Utf8Path) -> bool {
        self.keeps.iter().any(|kept| path.starts_with(kept))
    }

    /// Whether a path, as on a real node, outlives the system where it is: the configuration says so, or it is a part of
    /// what is mounted where the store lies.
    pub async fn outlives(&self, host: &Host, path: &Utf8Path) -> HostResult<bool> {
        if self.keeps(path) {
            return Ok(true);
        }
        let (store, path) = (self.store(&host.layout), host.layout.at(path.as_str()));
        let device = async |path: &Utf8Path| HostResult::Ok(host.files.space(path).await?.device);
        let of_store = device(&store).await?;
        if of_store == device(&host.layout.root).await? || of_store != device(&path).await? {
            return Ok(false);
        }
        let (store, path) = (mount(host, store).await?, mount(host, path).await?);
        Ok(store.zip(path).is_some_and(|(store, path)| is_part(&path, &store)))
    }

    /// The command as it is run here.
    pub fn argv(&self, layout: &Layout) -> Argv {
        let mut argv = self.command.clone();
        if let Some(program) = argv.first_mut() {
            *program = layout.at(program).into_string();
        }
        argv
    }

    /// Why the host cannot be replaced as it is now, as far as can be seen beforehand.
    pub async fn refusal(&self, host: &Host) -> HostResult<Option<String>> {
        let (files, store, command) = (&host.files, self.store(&host.layout), self.argv(&host.layout));
        let program = Utf8Path::new(command.first().map(String::as_str).unwrap_or_default());
        if !files.exists(program).await? {
            return Ok(Some(format!("its command {program} is not there: install it")));
        }
        if !files.exists(&store).await? {
            return Ok(Some(format!("its store {store} is not there: mount it, or make the folder")));
        }
        let root = files.space(&host.layout.root).await?.device;
        if files.space(&store).await?.device == root && !self.keeps(&self.store) {
            return Ok(Some(format!(
                "its store {store} lies on the file system of /, which is replaced: put it on one of its own, or, where \
                 the command leaves that folder alone, name it in `keeps`"
            )));
        }
        if let Some(why) = distrust(host.trees.as_ref(), &host.layout, &store).await? {
            return Ok(Some(why));
        }
        let state = host.layout.on_node(&host.layout.state_dir);
        if self.outlives(host, &state).await? {
            return Ok(Some(format!(
                "the agent's state {state} would outlive the system, by `keeps` or with the store {store}, and by its absence \
                 a new system is known: leave it out of `keeps`, or put the store on a file system of its own"
            )));
        }
        Ok(None)
    }

    /// What the coordinator is told.
    pub async fn facts(&self, host: &Host) -> HostResult<RedeployFacts> {
        Ok(RedeployFacts {
            command: self.command.clone(),
            store: self.store.to_string(),
            refusal: self.refusal(host).await?.unwrap_or_default(),
        })
    }
}

/// What a path is mounted with; `None` where nothing is there.
async fn mount(host: &Host, path: Utf8PathBuf) -> HostResult<Option<Mount>> {
    Ok(host.trees.survey(Survey::at(path)).await?.mount)
}

/// Whether what is mounted is a folder of what is mounted elsewhere, both of one file system. A node that is a container
/// has many folders of its host's file system mounted, and not all of them outlive it.
fn is_part(mount: &Mount, of: &Mount) -> bool {
    Utf8Path::new(&mount.root).starts_with(&of.root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_file_system_only_what_is_a_part_of_the_stores_mount_outlives_the_system() {
        let mount = |root: &str| Mount {
            point: "/x".to_owned(),
            kind: "ext4".to_owned(),
            source: "/dev/vda".to_owned(),
            root: root.to_owned(),
        };
        let store = mount("/docker/volumes/store/_data");
        assert!(is_part(&mount("/docker/volumes/store/_data/etcd"), &store));
        assert!(is_part(&store, &store));
        assert!(!is_part(&mount("/docker/volumes/w1/_data"), &store), "another folder of the host's disk");
        assert!(is_part(&mount("/etcd"), &mount("/")), "a disk is mounted as a whole");
    }

    fn read(text: &str) -> Result<Replacement, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.to_string())
    }

    #[test]
    fn a_command_and_a_store_are_enough_and_the_limits_have_defaults() {
        let text =
            "command = ['/usr/local/sbin/replace-system', '--all']\nstore = '/mnt/persistent/liftlock/'\n";
        let replacement = read(text).unwrap();
        assert_eq!(replacement.store, "/mnt/persistent/liftlock");
        assert_eq!(replacement.limits, Limits { time: TIME, silence: SILENCE });
        let limited = read(&format!("{text}time-limit = '5m'\nkeeps = ['/mnt']\n")).unwrap();
        assert_eq!(limited.limits.time, Duration::from_mins(5));
        assert!(limited.keeps(&limited.store) && !limited.keeps("/mnta".into()));
    }

    #[test]
    fn what_is_no_absolute_path_is_refused_and_nothing_is_looked_up() {
        for (text, word) in [
            ("command = ['replace-system']\nstore = '/mnt'", "replace-system"),
            ("command = []\nstore = '/mnt'", "command"),
            ("command = ['/a']\nstore = '/mnt/../etc'", "`..`"),
            ("command = ['/a']\nstore = '/mnt'\nkeeps = ['data']", "absolute"),
            ("command = ['/a']\nstore = '/mnt'\ntime-limit = '-5m'", "negative"),
            ("command = ['/a']\nstore = '/mnt'\nsilence-limit = '0s'", "zero"),
            ("command = ['/a']\nstore = '/mnt'\nshell = true", "shell"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
        }
    }
}
