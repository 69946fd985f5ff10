//! Texts of others, as they are shown to people: what a terminal would act upon is spelt out.

use std::borrow::Cow;

/// A text in one line: each character that a terminal acts upon, or by which one line would pass for several, or a word for
/// another, is written as `\u{1b}`.
pub fn line(text: &str) -> Cow<'_, str> {
    but_for(text, &[])
}

/// The same, but for these sequences, which stay.
pub fn but_for<'a>(text: &'a str, kept: &[&str]) -> Cow<'a, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if let Some(after) = kept.iter().find_map(|sequence| rest.strip_prefix(sequence)) {
            shown.push_str(rest.strip_suffix(after).unwrap_or_default());
            rest = after;
            continue;
        }
        if acts(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
        rest = rest.get(character.len_utf8()..).unwrap_or_default();
    }
    Cow::Owned(shown)
}

/// Controls, and what turns the direction of others round or is not seen
/// (<https://www.unicode.org/reports/tr36/#Bidirectional_Text_Spoofing>).
fn acts(character: char) -> bool {
    let turns_or_hides = matches!(
        character,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    );
    character.is_control() || turns_or_hides
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_act_upon_is_spelt_out() {
        assert_eq!(line("w1\u{1b}]0;owned\u{7}\nraised\r"), "w1\\u{1b}]0;owned\\u{7}\\nraised\\r");
        assert_eq!(line("w\u{202e}1\u{9b}2J"), "w\\u{202e}1\\u{9b}2J");
        assert_eq!(line("v1.30.4 → v1.31.2, größer"), "v1.30.4 → v1.31.2, größer");
        assert_eq!(but_for("a\u{1b}[1m\nb\u{1b}[2J", &["\n", "\u{1b}[1m"]), "a\u{1b}[1m\nb\\u{1b}[2J");
    }

    proptest! {
        #[test]
        fn whatever_a_text_holds_no_character_that_acts_is_left(text in any::<String>()) {
            prop_assert!(!line(&text).contains(acts));
            prop_assert!(!but_for(&text, &["\n"]).replace('\n', "").contains(acts));
        }
    }
}
