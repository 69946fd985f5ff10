//! What repositories of later minors offer, while the node's own files still lead to an earlier one.
//!
//! Without a lease nothing of the node's changes: apt is shown sources of our own, in the agent's state folder, and keeps
//! there what it learns of them. What it downloads goes to its own archives, as any download of its does, and is found
//! there once the node's files lead to that minor.

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::argv::{self, AptSources, Argv};
use liftlock_proto::version::KubernetesVersion;

use super::minor::{SplitFile, led_to, minors_of};
use super::scratch::Folder;
use crate::host::{Commands, Files, HostResult, Layout, Limits, Lines};

/// How many minors further than the node's own one is looked: a path of two years.
const FURTHEST: u16 = 8;

/// No file and no folder of sources.
const NOTHING: &str = "/dev/null";

/// The folder with what is known of later minors.
pub(super) struct Ahead {
    layout: Layout,
    files: Arc<dyn Files>,
    commands: Arc<dyn Commands>,
    folder: Folder,
}

/// Sources as they will be once the node's files lead to another minor.
pub(super) struct View {
    list: Utf8PathBuf,
    parts: Utf8PathBuf,
    lists: Utf8PathBuf,
}

impl View {
    /// The command, looking at these.
    pub(super) fn of(&self, argv: Argv) -> Argv {
        let sources =
            AptSources { list: self.list.as_str(), parts: self.parts.as_str(), lists: self.lists.as_str() };
        argv::apt_with_sources(argv, &sources)
    }
}

impl Ahead {
    pub(super) fn new(layout: Layout, files: Arc<dyn Files>, commands: Arc<dyn Commands>) -> Self {
        let folder = Folder::at(layout.state_dir.join("minors-ahead"));
        Self { layout, files, commands, folder }
    }

    /// One file of sources for each minor that was found.
    fn offers(&self) -> Folder {
        self.folder.below("offers")
    }

    fn lists(&self) -> Folder {
        self.folder.below("lists")
    }

    /// The files of one minor.
    fn view_of(&self, list: Utf8PathBuf) -> View {
        View { list, parts: NOTHING.into(), lists: self.lists().path().to_owned() }
    }

    /// Looks anew which later minors there are: up to the first whose repository does not answer.
    pub(super) async fn look(
        &self,
        found: &[SplitFile],
        limits: Limits,
        lines: &dyn Lines,
    ) -> HostResult<()> {
        let Some(newest) = minors_of(found).last().copied() else {
            return self.folder.remove();
        };
        let (offers, lists) = (self.offers(), self.lists());
        for folder in [&self.folder, &offers, &lists, &lists.below("partial")] {
            folder.renew()?;
        }
        for minor in (newest + 1)..=(newest + FURTHEST) {
            let named = |file: SplitFile| {
                let name = file.path.file_name().unwrap_or_default();
                (format!("v1.{minor}-{name}"), file.content)
            };
            let led: Vec<(String, String)> = led_to(found, minor).into_iter().map(named).collect();
            for (number, (name, content)) in led.iter().enumerate() {
                let view = self.view_of(offers.write(name, content)?);
                let unit = format!("liftlock-apt-update-{minor}-{number}");
                let argv = view.of(argv::apt_update());
                match self.commands.run_undisturbing(&unit, &argv, limits, lines).await {
                    Ok(()) => {}
                    Err(error) if error.ended_badly() => {
                        lines.line(&format!("nothing is known of v1.{minor} and later: {error}"));
                        for (name, _) in &led {
                            offers.forget(name)?;
                        }
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// What is known of later minors, or `None` where nothing is.
    pub(super) async fn known(&self) -> HostResult<Option<View>> {
        let offers = self.offers().path().to_owned();
        if self.files.list(&offers).await?.is_empty() {
            return Ok(None);
        }
        Ok(Some(View { parts: offers, ..self.view_of(NOTHING.into()) }))
    }

    /// All of the node's sources as they will be once they lead to the version's minor; `None` where they do already, or
    /// where no repository is split by minor.
    pub(super) async fn view(
        &self,
        found: &[SplitFile],
        version: KubernetesVersion,
    ) -> HostResult<Option<View>> {
        let led = led_to(found, version.minor);
        if led.is_empty() {
            return Ok(None);
        }
        let of = |path: &Utf8Path| led.iter().find(|file| file.path == path).map(|file| file.content.clone());
        let parts = self.folder.below("parts");
        parts.renew()?;
        let folder = self.layout.at("/etc/apt/sources.list.d");
        for name in self.files.list(&folder).await? {
            let path = folder.join(&name);
            match of(&path) {
                Some(content) => drop(parts.write(&name, &content)?),
                None => parts.link(&name, &path)?,
            }
        }
        let own = self.layout.at("/etc/apt/sources.list");
        let list = match of(&own) {
            Some(content) => self.folder.write("sources.list", &content)?,
            None => own,
        };
        // What apt knows of all other sources, dependencies among them, is not fetched once more.
        let known = self.layout.at("/var/lib/apt/lists");
        for name in self.files.list(&known).await? {
            if name != "lock" && name != "partial" && name != "auxfiles" {
                self.lists().link(&name, &known.join(&name))?;
            }
        }
        Ok(Some(View { list, parts: parts.path().to_owned(), lists: self.lists().path().to_owned() }))
    }
}
