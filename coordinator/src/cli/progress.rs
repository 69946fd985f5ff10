//! How a roll-out is shown while it goes on: bars on a terminal, lines with the time in a log, documents for programs.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;

use crate::cli::Desk;
use crate::cli::error::CliError;
use crate::cli::output::{self, Format};
use crate::cli::paint::{Paint, Tone};
use crate::cli::time::clock;
use crate::cli::view::changes::changes;
use crate::cli::view::rollout::{NodePhase, RolloutPhase, RolloutView};
use crate::printable;

/// Shows a roll-out as it changes.
pub(crate) trait Display {
    /// The next state.
    fn show(&mut self, rollout: &RolloutView) -> Result<(), CliError>;
    /// Something about the following itself.
    fn note(&mut self, text: &str) -> Result<(), CliError>;
    /// Gives the terminal back.
    fn end(&mut self) {}
    /// Whether every state goes to standard output as a whole, the last one too.
    fn shows_documents(&self) -> bool {
        false
    }
}

/// Bars where standard error is a terminal, else lines: among the answer for people, beside it for programs.
pub(crate) fn choose(format: Format, desk: &Desk) -> Box<dyn Display> {
    if io::stderr().is_terminal() {
        Box::new(Bars::new(desk.error_paint))
    } else {
        Box::new(Lines { to_stdout: format == Format::Table, shown: None })
    }
}

/// One document for each change, as `status --watch -o json` promises.
pub(crate) struct Documents {
    format: Format,
}

impl Documents {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }
}

impl Display for Documents {
    fn show(&mut self, rollout: &RolloutView) -> Result<(), CliError> {
        output::write(&output::render_one_of_many(rollout, self.format, Paint::OFF)?)
    }

    fn note(&mut self, text: &str) -> Result<(), CliError> {
        output::note(text);
        Ok(())
    }

    fn shows_documents(&self) -> bool {
        true
    }
}

/// A line for each thing that happens, with the time in UTC.
struct Lines {
    to_stdout: bool,
    shown: Option<RolloutView>,
}

impl Display for Lines {
    fn show(&mut self, rollout: &RolloutView) -> Result<(), CliError> {
        for change in changes(self.shown.as_ref(), rollout) {
            self.note(&change.text)?;
        }
        self.shown = Some(rollout.clone());
        Ok(())
    }

    fn note(&mut self, text: &str) -> Result<(), CliError> {
        let line = format!("{} {text}", clock(Some(Timestamp::now())));
        if self.to_stdout {
            output::tell(&format!("{line}\n"))
        } else {
            output::note(&line);
            Ok(())
        }
    }
}

/// What happened stands above; below it the nodes as a whole and the first one under lease.
struct Bars {
    paint: Paint,
    screen: MultiProgress,
    nodes: ProgressBar,
    steps: ProgressBar,
    shown: Option<RolloutView>,
}

const NODES: &str = "{bar:30} {pos}/{len} nodes  {elapsed}  {wide_msg}";
const STEPS: &str = "{bar:30} {pos}/{len} steps  {wide_msg}";
/// Of nothing, a bar would look full.
const NOTHING: &str = "{wide_msg}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━━╌")
}

impl Bars {
    fn new(paint: Paint) -> Self {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let bar = || {
            let bar = screen.add(ProgressBar::new(0).with_style(style(NOTHING)));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        };
        let (nodes, steps) = (bar(), bar());
        Self { paint, screen, nodes, steps, shown: None }
    }
}

impl Display for Bars {
    fn show(&mut self, rollout: &RolloutView) -> Result<(), CliError> {
        for change in changes(self.shown.as_ref(), rollout) {
            self.screen.println(output::for_people(&self.paint.paint(change.tone, &change.text)))?;
        }
        if self.shown.is_none() {
            self.nodes.set_style(style(NODES));
        }
        self.nodes.set_length(rollout.nodes.len() as u64);
        self.nodes.set_position(rollout.raised() as u64);
        self.nodes.set_message(match rollout.phase {
            RolloutPhase::Preparing => {
                let ready = rollout.nodes.iter().filter(|node| node.phase != NodePhase::Pending).count();
                format!("preparing, {ready} of {} ready", rollout.nodes.len())
            }
            RolloutPhase::Running => match &rollout.reason {
                Some(reason) => format!("{}: {}", rollout.phase.name(), printable::line(reason)),
                None => rollout.phase.name().to_owned(),
            },
            phase => phase.name().to_owned(),
        });
        let mut leased = rollout.nodes.iter().filter(|node| node.phase == NodePhase::Leased);
        if let Some(node) = leased.next() {
            self.steps.set_style(style(STEPS));
            self.steps.set_length(node.steps_total.into());
            self.steps.set_position(node.step_number.into());
            let output = self.paint.paint(Tone::Faint, node.last_output.as_deref().unwrap_or_default());
            let others: Vec<&str> = leased.map(|other| other.name.as_str()).collect();
            let beside =
                if others.is_empty() { String::new() } else { format!(" (beside {})", others.join(", ")) };
            self.steps.set_message(format!(
                "{}{beside}  {}  {output}",
                node.name,
                node.step.as_deref().unwrap_or_default()
            ));
        } else {
            self.steps.set_style(style(NOTHING));
            self.steps.set_message("");
        }
        self.shown = Some(rollout.clone());
        Ok(())
    }

    fn note(&mut self, text: &str) -> Result<(), CliError> {
        Ok(self.screen.println(output::for_people(&self.paint.paint(Tone::Notice, text)))?)
    }

    fn end(&mut self) {
        self.steps.finish_and_clear();
        self.nodes.finish_and_clear();
    }
}
