//! `cargo demo`: a cluster is raised before one's eyes, and one agent is killed in the middle of it.

mod narrator;
mod report;
mod story;

use std::process::ExitCode;

use clap::Parser;

use crate::demo::narrator::Narrator;

/// Raises a stand-in cluster of 3 control planes and 3 workers with the real coordinator and agents: as any user,
/// without root, without a network. Kills an agent in the middle. Leaves nothing behind.
#[derive(Debug, Parser)]
#[command(name = "cargo demo")]
pub struct Options {
    /// Print one JSON object on standard output at the end; the story goes to standard error.
    #[arg(long)]
    json: bool,
    /// How many times slower, for watching.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pace: f64,
}

/// Runs it.
pub async fn main() -> ExitCode {
    let options = Options::parse();
    if !(0.1..=100.0).contains(&options.pace) {
        eprintln(&"error: --pace takes a factor from 0.1 to 100");
        return ExitCode::from(2);
    }
    let narrator = Narrator::new(options.json);
    // Whatever ends it, the story's fleet is dropped, and with it every process and folder.
    let ended = tokio::select! {
        ended = story::tell(&narrator, options.pace) => ended,
        () = interrupted() => {
            narrator.line("");
            narrator.line("interrupted: everything was stopped and removed");
            return ExitCode::from(130);
        }
    };
    match ended {
        Ok(report) => {
            narrator.end(&report);
            if options.json {
                narrator::print_json(&report);
            }
            if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln(&format_args!("error: {error:#}"));
            if options.json {
                narrator::print_json(&report::failed(&error));
            }
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut hangup)) = (signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

fn eprintln(words: &dyn std::fmt::Display) {
    use std::io::Write as _;
    _ = writeln!(std::io::stderr(), "{words}");
}
