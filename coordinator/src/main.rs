//! `liftlock`: the coordinator and the operator's command line.

use std::error::Error;
use std::io::{self, IsTerminal, stderr};
use std::process::ExitCode;

use clap::Parser;
use liftlock::cli::exit::Exit;
use liftlock::cli::paint::Paint;
use liftlock::cli::{self, Cli, Globals, OperatorVerb, Verb};
use liftlock::serve::{self, ServeOptions};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

fn main() -> ExitCode {
    let Cli { globals, verb } = Cli::parse();
    // The only provider that is compiled in; an error means that it was installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match verb {
        Verb::Serve(options) => serve(options),
        Verb::Operator(verb) => operate(globals, verb),
    }
    .into()
}

fn serve(options: ServeOptions) -> Exit {
    log(LevelFilter::INFO);
    with(Builder::new_multi_thread().enable_all().build(), |runtime| {
        runtime.block_on(serve::run(options)).map_or_else(|error| failed(&error), |()| Exit::Done)
    })
}

fn operate(globals: Globals, verb: OperatorVerb) -> Exit {
    log(LevelFilter::OFF);
    with(Builder::new_current_thread().enable_all().build(), |runtime| {
        runtime.block_on(cli::run(globals, verb))
    })
}

fn with(runtime: io::Result<Runtime>, run: impl FnOnce(Runtime) -> Exit) -> Exit {
    runtime.map_or_else(|error| failed(&error), run)
}

fn failed(error: &dyn Error) -> Exit {
    cli::say_error(error, Paint::OFF);
    Exit::Error
}

/// To standard error, from `level` on unless `LIFTLOCK_LOG` says otherwise.
fn log(level: LevelFilter) {
    let asked = std::env::var("LIFTLOCK_LOG").ok().and_then(|wanted| wanted.parse().ok());
    let filter: Targets = asked.unwrap_or_else(|| Targets::new().with_default(level));
    let log = tracing_subscriber::fmt::layer().with_ansi(stderr().is_terminal()).with_writer(stderr);
    tracing_subscriber::registry().with(log.with_filter(filter)).init();
}
