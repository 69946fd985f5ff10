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

/// Most that a document may hold, in bytes: more than the status of any cluster.
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
    let most = LONGEST + 1;
    let content = if path == Path::new(STDIN) {
        let mut content = Vec::new();
        io::stdin().lock().take(most).read_to_end(&mut content).map_err(CliError::Stdin)?;
        content
    } else {
        files::first_bytes(path, most)?.ok_or_else(|| CliError::NoFile { path: path.to_owned() })?
    };
    if u64::try_from(content.len()).is_ok_and(|length| length > LONGEST) {
        return Err(CliError::Usage(format!(
            "{} is not an upgrade plan: it has more than {LONGEST} bytes",
            name(path)
        )));
    }
    document::parse_file(&content).map_err(|error| CliError::Document { name: name(path), error })
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
