//! Asking before something is done.

use std::io::{self, IsTerminal, Write};

use tokio::task::spawn_blocking;

use crate::cli::error::CliError;
use crate::cli::output;

/// Whether there is somebody to ask.
pub fn possible() -> bool {
    io::stdin().is_terminal()
}

/// Asks on the terminal; anything but yes is no.
pub async fn confirm(question: String) -> Result<(), CliError> {
    let answer = spawn_blocking(move || {
        let mut stderr = io::stderr().lock();
        stderr.write_all(output::for_people(&question).as_bytes())?;
        stderr.flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    })
    .await
    .map_err(io::Error::other)??;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CliError::NotConfirmed),
    }
}
