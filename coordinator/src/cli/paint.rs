//! Colour, only where it is wanted.

use clap::ColorChoice;
use clap::builder::styling::{AnsiColor, Style};

/// All that text is ever painted with. Whatever else of this kind a text holds is somebody else's.
pub const SEQUENCES: [&str; 6] =
    ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m"];

/// Paints words, or leaves them as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

/// What a word says, from which its colour follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// Nothing in particular.
    #[default]
    Plain,
    /// A heading.
    Strong,
    /// Of less weight.
    Faint,
    /// It went well.
    Good,
    /// It goes on, or wants attention.
    Notice,
    /// It went wrong.
    Bad,
}

impl Paint {
    /// No colour.
    pub const OFF: Self = Self { on: false };

    /// Colour.
    pub const ON: Self = Self { on: true };

    /// As `--color` says; `auto` means on a terminal, unless the user asked for none (<https://no-color.org>).
    pub fn choose(choice: ColorChoice, terminal: bool, no_color: bool) -> Self {
        let on = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !no_color,
        };
        Self { on }
    }

    /// The text in its tone.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let style = match tone {
            Tone::Plain => Style::new(),
            Tone::Strong => Style::new().bold(),
            Tone::Faint => Style::new().dimmed(),
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Notice => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default().bold(),
        };
        if self.on && tone != Tone::Plain && !text.is_empty() {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_paints_on_a_terminal_only_and_heeds_no_color() {
        assert_eq!(Paint::choose(ColorChoice::Auto, true, false), Paint::ON);
        assert_eq!(Paint::choose(ColorChoice::Auto, true, true), Paint::OFF);
        assert_eq!(Paint::choose(ColorChoice::Auto, false, false), Paint::OFF);
    }

    #[test]
    fn every_tone_is_made_of_the_sequences_that_are_known_as_paint() {
        for tone in [Tone::Plain, Tone::Strong, Tone::Faint, Tone::Good, Tone::Notice, Tone::Bad] {
            let painted = Paint::ON.paint(tone, "word");
            let bare = SEQUENCES.iter().fold(painted, |text, sequence| text.replace(sequence, ""));
            assert_eq!(bare, "word", "{tone:?}");
        }
    }

    #[test]
    fn an_explicit_choice_wins() {
        assert_eq!(Paint::choose(ColorChoice::Always, false, true), Paint::ON);
        assert_eq!(Paint::choose(ColorChoice::Never, true, false), Paint::OFF);
    }
}
