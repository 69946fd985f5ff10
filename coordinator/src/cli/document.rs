//! The document that an operator names: a file, or `-` for standard input.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use liftlock_proto::v1;

use crate::cli::error::CliError;
use crate::document::{self, UpgradePlan};
use crate::identity::files;

/// What stands for standard input.
const STDIN: &str = "-";

/// Most that is read of standard input, in bytes: more than the status of any cluster.
const LONGEST: u64 = 256 * 1024 * 1024;

/// Which document.
#[derive(Debug, Args)]
pub struct DocumentArgs {
    /// The document (YAML or JSON, kind `UpgradePlan`); `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
}

impl DocumentArgs {
    /// The document, read.
    pub fn read(&self) -> Result<UpgradePlan, CliError> {
        read(&self.file)
    }
}

/// The document in a file; an error names line and column.
pub fn read(path: &Path) -> Result<UpgradePlan, CliError> {
    let text = if path == Path::new(STDIN) {
        let mut text = String::new();
        io::stdin().lock().take(LONGEST).read_to_string(&mut text).map_err(CliError::Stdin)?;
        text
    } else {
        files::read(path)?.ok_or_else(|| CliError::NoFile { path: path.to_owned() })?
    };
    document::parse(&text).map_err(|error| CliError::Document { name: name(path), error })
}

/// How messages name it.
pub fn name(path: &Path) -> String {
    if path == Path::new(STDIN) { "standard input".to_owned() } else { path.display().to_string() }
}

/// As the coordinator is asked.
pub fn request(document: UpgradePlan) -> v1::MakePlanRequest {
    let conduct = document.conduct();
    let (to_version, policy) = document.wanted();
    v1::MakePlanRequest {
        to_version: to_version.to_string(),
        policy: Some(policy.into()),
        conduct: (!conduct.is_default()).then(|| conduct.into()),
    }
}
