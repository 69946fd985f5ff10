//! Exact package versions and their holds.

use std::time::Duration;

use liftlock_proto::version::KubernetesVersion;

use super::switch_repository;
use crate::backup::Backup;
use crate::backup::packages::PackageState;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, PreState, StepFailure, StepPolicy};

/// The Kubernetes version in a package's version: `v1.19.7` of `1.19.7-00`, `1.31.2-1.1` or `0:1.31.2-1.1`.
pub(super) fn kubernetes_version(package_version: &str) -> Option<KubernetesVersion> {
    let upstream = package_version.split_once(':').map_or(package_version, |(_, rest)| rest);
    upstream.split('-').next()?.parse().ok()
}

/// Packages that are raised together, and the program whose word on its version counts.
pub(super) struct Packages {
    /// Names.
    pub(super) names: &'static [&'static str],
    /// In one of them.
    pub(super) program: &'static str,
}

impl Packages {
    /// Done where all are installed at the version, the program reports it, and what was held is held. What falls
    /// short of that goes to the log: the engine only says that it does.
    pub(super) async fn observe(
        &self,
        cx: &Context,
        version: KubernetesVersion,
    ) -> Result<Observed, StepFailure> {
        let now = cx.timed(TimeSpent::Child, PackageState::now(&cx.host)).await?;
        let before = self.before(cx).await?;
        let names = self.present(&before);
        let of = |state: &PackageState| (state.installed_of(&names), state.held_of(&names));
        let (installed, held) = of(&now);
        let at_version = |(_, found): &(String, String)| kubernetes_version(found) == Some(version);
        if installed.len() == names.len()
            && installed.iter().all(at_version)
            && held == before.held_of(&names)
        {
            // A program that does not run is as good as a package that is not whole.
            let reported = cx.host.packages.binary_version(self.program);
            let reported = cx.timed(TimeSpent::Child, reported).await;
            if reported.as_ref().is_ok_and(|reported| *reported == version) {
                return Ok(Observed::Done);
            }
            let line =
                format!("{} is installed at {version}, and its own word is {reported:?}", self.program);
            cx.reporter.line(cx.step, &line);
        } else if of(&before) == of(&now) {
            return Ok(Observed::Absent);
        } else {
            let line = format!("on the way to {version}: installed are {installed:?}, held are {held:?}");
            cx.reporter.line(cx.step, &line);
        }
        Ok(Observed::Partial)
    }

    /// Versions and holds as they were.
    pub(super) async fn capture(&self, cx: &Context) -> Result<PreState, StepFailure> {
        Ok(serde_json::to_value(self.before(cx).await?)?)
    }

    /// Mends what an interrupted installation left, installs the version, and holds again what was held.
    pub(super) async fn install(
        &self,
        cx: &Context,
        version: KubernetesVersion,
        pre: &PreState,
    ) -> Result<(), StepFailure> {
        Backup::require(cx).await?;
        let before: PackageState = serde_json::from_value(pre.clone())?;
        let (names, packages) = (self.present(&before), &cx.host.packages);
        if names.is_empty() {
            return Err(StepFailure::Refused(format!(
                "{} has no package {}: it was installed in another way, which Liftlock does not raise",
                cx.node,
                self.names.join(" or ")
            )));
        }
        let held = before.held_of(&names);
        cx.timed(TimeSpent::Child, async {
            packages.repair(&cx.permit()?, cx).await?;
            packages.install(&cx.permit()?, &names, version, &held, cx).await
        })
        .await?;
        Ok(())
    }

    /// Puts versions and holds back.
    pub(super) async fn put_back(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        let before: PackageState = serde_json::from_value(pre.clone())?;
        put_back(cx, &before, self.names).await
    }

    /// The state before the plan's first change. While there is no backup nothing was changed, so it is the present
    /// one.
    async fn before(&self, cx: &Context) -> Result<PackageState, StepFailure> {
        Ok(match Backup::find(cx).await? {
            Some(backup) => PackageState::before(cx, &backup).await?,
            None => cx.timed(TimeSpent::Child, PackageState::now(&cx.host)).await?,
        })
    }

    /// Those of the packages that the node had: one that it did without is not brought in.
    fn present(&self, before: &PackageState) -> Vec<&'static str> {
        self.names.iter().copied().filter(|name| before.installed.contains_key(*name)).collect()
    }
}

/// Puts packages back to what they were. Installs even where nothing seems to have: a
/// package manager that an agent which is gone left running may be about to, and only the next one waits for its lock.
pub(super) async fn put_back(cx: &Context, before: &PackageState, names: &[&str]) -> Result<(), StepFailure> {
    let (installed, held) = (before.installed_of(names), before.held_of(names));
    if let Some(version) = installed.iter().find_map(|(_, version)| kubernetes_version(version)) {
        switch_repository::lead_to(cx, version).await?;
    }
    let packages = &cx.host.packages;
    cx.timed(TimeSpent::Child, async {
        packages.repair(&cx.permit()?, cx).await?;
        packages.reinstall(&cx.permit()?, &installed, &held, cx).await
    })
    .await?;
    Ok(())
}

/// dpkg's lock may be held by a package manager that an agent which is gone left running, or by somebody else's.
pub(super) fn policy() -> StepPolicy {
    StepPolicy { attempts: 4, pause: Duration::from_secs(15) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packages_version_holds_the_kubernetes_version() {
        let version = Some(KubernetesVersion::new(1, 31, 2));
        for text in ["1.31.2-1.1", "1.31.2-00", "0:1.31.2-1.1", "1.31.2"] {
            assert_eq!(kubernetes_version(text), version, "{text}");
        }
        assert_eq!(kubernetes_version("1.31.20-1.1"), Some(KubernetesVersion::new(1, 31, 20)));
        assert_eq!(kubernetes_version("1.31.2~rc1-1"), None);
    }
}
