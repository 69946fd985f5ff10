//! `liftlock login`

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use liftlock_proto::enrollment::{EnrollmentError, enroll, new_key};
use liftlock_proto::join_token::JoinToken;

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::{Desk, connect, output};
use crate::identity::files;

/// Beside the identity, until it is stored.
const NEXT_KEY: &str = "next-key.pem";

/// Options of `login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// The file that holds the token, or - for standard input. A token on the command line would be seen by others.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The name that the token was made for, to be sure; otherwise whoever it was made for.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
}

pub(crate) async fn run(desk: &Desk, args: LoginArgs) -> Result<Exit, CliError> {
    let whereabouts = &desk.whereabouts;
    let coordinator = whereabouts.coordinator.as_ref().ok_or(CliError::NoCoordinator)?;
    let folder = whereabouts.identity.as_ref().or(whereabouts.own_folder.as_ref()).ok_or_else(|| {
        CliError::Usage("there is no home folder to keep the identity in: give --identity DIR".to_owned())
    })?;
    let token: JoinToken = read_token(&args.token_file)?.parse()?;
    // The token is good for one key: a folder that cannot be made is better known before it is spent.
    files::make_folder(folder)?;
    let key_pem = next_key(&folder.join(NEXT_KEY))?;
    let identity = enroll(coordinator, &token, &args.name, &key_pem).await?;
    connect::store(folder, &identity, coordinator)?;
    files::remove(&folder.join(NEXT_KEY))?;
    output::note(&format!("The identity is in {}; its key was made here and stays here.", folder.display()));
    Ok(Exit::Done)
}

/// The key of a login whose answer never arrived, or a new one. On the disk before the token is spent on it: a disk that
/// is full is better known before, too.
fn next_key(path: &Path) -> Result<String, CliError> {
    if let Some(key_pem) = files::read(path)? {
        return Ok(key_pem);
    }
    let key_pem = new_key().map_err(EnrollmentError::Key)?;
    files::write(path, &key_pem)?;
    Ok(key_pem)
}

fn read_token(path: &Path) -> Result<String, CliError> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    files::read(path)?.ok_or_else(|| CliError::NoFile { path: path.to_owned() })
}
