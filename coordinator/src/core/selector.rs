//! Which nodes a label selector selects, in the words that `kubectl -l` takes.
//!
//! Requirements with commas between them, all of which have to be met: `key`, `!key`, `key=value` (or `==`), `key!=value`,
//! `key in (a,b)`, `key notin (a,b)`. As in Kubernetes, `!=` and `notin` are met also where the key is missing
//! (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>).

use std::collections::{BTreeMap, BTreeSet};

/// The longest name of a label, and the longest value
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set>).
const LONGEST: usize = 63;

/// The longest prefix before a name's slash.
const LONGEST_PREFIX: usize = 253;

/// Labels by key.
pub type Labels = BTreeMap<String, String>;

/// A label selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    rule: Rule,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Exists,
    Missing,
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
}

/// A text that is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{text}\" is no label selector: {why}; allowed are requirements with commas between them, each as in pool=gpu, \
     tier!=db, zone in (a,b), zone notin (a,b), ssd or !ssd"
)]
pub struct SelectorError {
    text: String,
    why: String,
}

impl Selector {
    /// Whether these labels meet every requirement.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.0.iter().all(|Requirement { key, rule }| {
            let value = labels.get(key);
            match rule {
                Rule::Exists => value.is_some(),
                Rule::Missing => value.is_none(),
                Rule::In(values) => value.is_some_and(|value| values.contains(value)),
                Rule::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }
}

impl std::str::FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let requirements = split(text).and_then(|parts| parts.into_iter().map(requirement).collect());
        requirements.map(Self).map_err(|why| SelectorError { text: text.to_owned(), why })
    }
}

/// What stands between the commas that are in no parentheses.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut from, mut inside) = (Vec::new(), 0, false);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' if inside => return Err("parentheses stand in parentheses".to_owned()),
            ')' if !inside => return Err("a parenthesis is closed that was not opened".to_owned()),
            '(' => inside = true,
            ')' => inside = false,
            ',' if !inside => {
                parts.extend(text.get(from..at));
                from = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err("a parenthesis is not closed".to_owned());
    }
    parts.extend(text.get(from..));
    Ok(parts)
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("a requirement is empty".to_owned());
    }
    if let Some(list) = text.strip_suffix(')') {
        let (before, list) = list.split_once('(').ok_or("a parenthesis is closed that was not opened")?;
        let mut words = before.split_whitespace();
        let (key, word, rest) = (words.next().unwrap_or_default(), words.next(), words.next());
        let values = list.split(',').map(value).collect::<Result<_, _>>()?;
        let rule = match (word, rest) {
            (Some("in"), None) => Rule::In(values),
            (Some("notin"), None) => Rule::NotIn(values),
            _ => {
                return Err(format!(
                    "before the list of \"{text}\" stands neither \"KEY in\" nor \"KEY notin\""
                ));
            }
        };
        return Ok(Requirement { key: checked_key(key)?, rule });
    }
    let one = |text: &str| Ok::<_, String>(BTreeSet::from([value(text)?]));
    let (key, rule) = if let Some((key, text)) = text.split_once("!=") {
        (key, Rule::NotIn(one(text)?))
    } else if let Some((key, text)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (key, Rule::In(one(text)?))
    } else if let Some(key) = text.strip_prefix('!') {
        (key, Rule::Missing)
    } else {
        (text, Rule::Exists)
    };
    Ok(Requirement { key: checked_key(key)?, rule })
}

fn checked_key(text: &str) -> Result<String, String> {
    let key = text.trim();
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let is_prefix = |prefix: &str| {
        prefix.len() <= LONGEST_PREFIX
            && prefix.split('.').all(is_word)
            && !prefix.contains(|letter: char| letter == '_' || letter.is_ascii_uppercase())
    };
    if prefix.is_none_or(is_prefix) && is_word(name) {
        Ok(key.to_owned())
    } else {
        Err(format!("\"{key}\" is not the key of a label"))
    }
}

/// A value may be empty.
fn value(text: &str) -> Result<String, String> {
    let value = text.trim();
    if value.is_empty() || is_word(value) {
        Ok(value.to_owned())
    } else {
        Err(format!("\"{value}\" is not the value of a label"))
    }
}

/// Up to 63 of letters, digits, dashes, underscores and dots, a letter or a digit at each end.
fn is_word(text: &str) -> bool {
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= LONGEST
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && ends(text.bytes().next())
        && ends(text.bytes().last())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels() -> Labels {
        let labels = [("pool", "gpu"), ("topology.kubernetes.io/zone", "a"), ("empty", "")];
        labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    #[test]
    fn a_selector_selects_as_kubectl_does() {
        let selects = |text: &str| text.parse::<Selector>().unwrap().selects(&labels());
        for text in [
            "pool=gpu",
            "pool == gpu",
            "pool in (cpu, gpu)",
            "pool notin (cpu)",
            "pool!=cpu",
            "rack!=cpu",
            "rack notin (cpu)",
            "pool",
            "!rack",
            "empty=",
            "pool=gpu,topology.kubernetes.io/zone in (a,b),!rack",
        ] {
            assert!(selects(text), "{text}");
        }
        for text in ["pool=cpu", "pool in (cpu)", "pool!=gpu", "rack", "!pool", "rack=", "pool=gpu,rack"] {
            assert!(!selects(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused_with_the_rule_and_what_is_allowed() {
        for (text, why) in [
            ("", "a requirement is empty"),
            ("pool=gpu,", "a requirement is empty"),
            ("pool in (a", "is not closed"),
            ("pool in a)", "was not opened"),
            ("pool in ((a))", "stand in parentheses"),
            ("pool among (a)", "neither \"KEY in\""),
            ("po ol=a", "\"po ol\" is not the key"),
            ("pool=a b", "\"a b\" is not the value"),
            ("Example.com/pool", "is not the key"),
            ("a/b/c", "is not the key"),
            ("pool>1", "is not the key"),
        ] {
            let error = text.parse::<Selector>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("allowed are"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_whatever_it_is_does_more_than_be_refused(text in "\\PC*") {
            let _ = text.parse::<Selector>();
        }

        #[test]
        fn a_selector_and_its_opposite_part_all_nodes(value in "[a-z]{1,3}", label in prop::option::of("[a-z]{1,3}")) {
            let labels: Labels = label.into_iter().map(|label| ("k".to_owned(), label)).collect();
            let selects = |text: String| text.parse::<Selector>().unwrap().selects(&labels);
            prop_assert_ne!(selects(format!("k={value}")), selects(format!("k!={value}")));
            prop_assert_ne!(selects(format!("k in ({value},x)")), selects(format!("k notin ({value},x)")));
            prop_assert_ne!(selects("k".to_owned()), selects("!k".to_owned()));
        }
    }
}
