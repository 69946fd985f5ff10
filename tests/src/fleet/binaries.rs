//! Finds the programs under test, and builds them where a fresh checkout has not yet.

use std::env;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};

/// Names a folder with programs that were built before, such as those of a release.
const FOLDER_VARIABLE: &str = "LIFTLOCK_BIN_DIR";

const PACKAGE_VARIABLES: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// The programs that a fleet is made of.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The coordinator and the command line.
    pub liftlock: Utf8PathBuf,
    /// The agent.
    pub agent: Utf8PathBuf,
    /// The stand-in nodes' programs.
    pub standin: Utf8PathBuf,
}

impl Binaries {
    /// The programs beside the one that runs, or those in the folder that `LIFTLOCK_BIN_DIR` names. Under cargo the
    /// former are built first: it builds only the programs of the package whose tests it runs.
    pub fn find() -> Result<&'static Self> {
        static FOUND: OnceLock<Result<Binaries, String>> = OnceLock::new();
        let found = FOUND.get_or_init(|| Self::build_and_find().map_err(|error| format!("{error:#}")));
        found.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    fn build_and_find() -> Result<Self> {
        let own = Utf8PathBuf::try_from(env::current_exe()?)?;
        // target/debug/deps/end_to_end-0123456789abcdef or target/debug/demo
        let folder = own.ancestors().skip(1).find(|folder| folder.file_name() != Some("deps"));
        let folder = folder.context("this program lies in no folder")?;
        if let Some(given) = env::var_os(FOLDER_VARIABLE) {
            let given = Utf8PathBuf::try_from(std::path::PathBuf::from(given))?;
            return Self::in_folder(&given);
        }
        if let Some(cargo) = env::var_os("CARGO") {
            let mut build = Command::new(cargo);
            build.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(env!("CARGO_MANIFEST_DIR"));
            if folder.file_name() == Some("release") {
                build.arg("--release");
            }
            // What cargo says of this package to its tests. Some build scripts (ring's) look at the same names, would run
            // anew, and half of all crates would be built again.
            for (name, _) in env::vars_os() {
                if name.to_str().is_some_and(|name| PACKAGE_VARIABLES.iter().any(|of| name.starts_with(of))) {
                    build.env_remove(name);
                }
            }
            let status = build.status().context("cannot run cargo build")?;
            if !status.success() {
                bail!("`cargo build --workspace --bins` ended with {status}");
            }
        }
        Self::in_folder(folder)
    }

    fn in_folder(folder: &Utf8Path) -> Result<Self> {
        let binary = |name: &str| {
            let path = folder.join(name);
            if path.exists() {
                Ok(path)
            } else {
                bail!("{path} is missing: run `cargo build --workspace --bins`")
            }
        };
        Ok(Self {
            liftlock: binary("liftlock")?,
            agent: binary("liftlock-agent")?,
            standin: binary("standin")?,
        })
    }
}
