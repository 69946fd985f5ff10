//! `liftlock man --dir DIR`, and what `--help` and the manual pages say beyond the options.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_mangen::Man;

use crate::cli::connect::LOCAL_OPERATOR;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::{command, output};

/// Options of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The folder to write liftlock.1, liftlock-plan.1 and so on to; it is made if need be.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

/// What the environment may say.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("LIFTLOCK_COORDINATOR", "the coordinator's address, where --coordinator is not given"),
    ("LIFTLOCK_IDENTITY", "the identity's folder, where --identity is not given"),
    ("LIFTLOCK_LOG", "what is logged, such as info or liftlock=debug"),
    ("NO_COLOR", "if not empty, no colour unless --color says always"),
    ("XDG_CONFIG_HOME", "where ~/.config is"),
];

/// Where things lie.
const FILES: [(&str, &str); 5] = [
    ("~/.config/liftlock", "the identity that `liftlock login` made: key.pem, cert.pem, ca.pem, coordinator"),
    (LOCAL_OPERATOR, "the identity of root on the coordinator's own machine, made by `liftlock serve`"),
    ("/etc/liftlock/coordinator.toml", "what `liftlock serve` reads"),
    ("/etc/liftlock/catalogue.toml", "the versions that may be raised to, where the one above names it"),
    ("/etc/liftlock/plans.kubeconfig", "the key to the UpgradePlans, where coordinator.toml names it"),
];

/// What stands below the options in `liftlock --help`.
pub(crate) fn after_long_help() -> String {
    let mut text = String::from("Exit codes:\n");
    for exit in Exit::ALL {
        let _ = writeln!(text, "  {:<4} {}", exit.code(), exit.meaning());
    }
    for (title, entries) in [("Environment", ENVIRONMENT.as_slice()), ("Files", FILES.as_slice())] {
        let _ = writeln!(text, "\n{title}:");
        let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, meaning) in entries {
            let _ = writeln!(text, "  {name:<width$}  {meaning}");
        }
    }
    text.truncate(text.trim_end().len());
    text
}

#[expect(clippy::disallowed_methods, reason = "manual pages are for everyone to read, and made anew at will")]
pub(crate) fn run(args: &ManArgs) -> Result<Exit, CliError> {
    let unwritable =
        |error: io::Error| CliError::Unwritable { why: format!("{}: {error}", args.dir.display()) };
    fs::create_dir_all(&args.dir).map_err(unwritable)?;
    let mut all = command().disable_help_subcommand(true);
    all.build();
    let commands = commands(&all);
    for command in &commands {
        let man = Man::new((*command).clone());
        fs::write(args.dir.join(man.get_filename()), page(command, &man)?).map_err(unwritable)?;
    }
    output::note(&format!("{} manual pages are in {}", commands.len(), args.dir.display()));
    Ok(Exit::Done)
}

/// The command itself and every verb below it.
fn commands(command: &Command) -> Vec<&Command> {
    std::iter::once(command).chain(command.get_subcommands().flat_map(commands)).collect()
}

/// One page: clap's sections, then exit codes, environment and files in the sections that man-pages(7) has for them.
fn page(command: &Command, man: &Man) -> io::Result<String> {
    let mut roff = Vec::new();
    man.render_title(&mut roff)?;
    man.render_name_section(&mut roff)?;
    man.render_synopsis_section(&mut roff)?;
    man.render_description_section(&mut roff)?;
    man.render_options_section(&mut roff)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut roff)?;
    }
    let mut text = String::from_utf8_lossy(&roff).into_owned();
    let codes: Vec<(String, &str)> =
        Exit::ALL.iter().map(|exit| (exit.code().to_string(), exit.meaning())).collect();
    section(&mut text, "EXIT STATUS", codes.iter().map(|(code, meaning)| (code.as_str(), *meaning)));
    section(&mut text, "ENVIRONMENT", ENVIRONMENT.into_iter());
    section(&mut text, "FILES", FILES.into_iter());
    Ok(text)
}

fn section<'a>(text: &mut String, title: &str, entries: impl Iterator<Item = (&'a str, &'a str)>) {
    let _ = writeln!(text, ".SH \"{title}\"");
    for (name, meaning) in entries {
        let _ = writeln!(text, ".TP\n\\fB{}\\fR\n{}", escape(name), escape(meaning));
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('~', "\\(ti").replace('`', "\\(ga")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::files;

    #[test]
    fn the_grammar_has_no_contradiction() {
        command().debug_assert();
    }

    #[test]
    fn every_verb_has_a_page_that_names_the_exit_codes() {
        let dir = tempfile::tempdir().unwrap();
        run(&ManArgs { dir: dir.path().to_owned() }).unwrap();
        for verb in ["liftlock", "liftlock-plan", "liftlock-token-create"] {
            let page = files::read(&dir.path().join(format!("{verb}.1"))).unwrap().unwrap();
            assert!(page.contains(".SH \"EXIT STATUS\"") && page.contains(Exit::Refused.meaning()), "{page}");
        }
    }
}
