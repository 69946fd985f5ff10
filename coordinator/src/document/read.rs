//! Reading a document: what does not read is named with its place, its field, its value and what would be allowed.

use serde::Deserialize as _;
use serde_path_to_error::{Deserializer, Track};
use serde_saphyr::{Error, Location, Options, SnippetMode};

use super::UpgradePlan;
use super::schema::allowed;
use crate::printable;

/// How much of a value an error shows, in characters.
const SHOWN: usize = 60;

/// How much of an error is shown, in characters: a rule's own words have the value in front and what is allowed at the end.
const HEAD: usize = 200;
const TAIL: usize = 1200;

/// A text that is no document. Lines and columns are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", .place.map(|(line, column)| format!("line {line}, column {column}: ")).unwrap_or_default())]
pub struct DocumentError {
    /// Line and column, where they are known.
    pub place: Option<(u64, u64)>,
    /// The field, its value, the rule and what would be allowed.
    pub what: String,
}

/// The document in a file.
///
/// # Errors
/// As of [`parse`], and where it is no text.
pub fn parse_file(content: &[u8]) -> Result<UpgradePlan, DocumentError> {
    str::from_utf8(content)
        .map_err(|error| DocumentError::no_text(content, error.valid_up_to()))
        .and_then(parse)
}

/// The document in a text, YAML or JSON.
///
/// # Errors
/// The first thing that does not read.
pub fn parse(text: &str) -> Result<UpgradePlan, DocumentError> {
    let mut track = Track::new();
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |document| {
        UpgradePlan::deserialize(Deserializer::new(document, &mut track))
    });
    read.map_err(|error| DocumentError::of(text, &error, &track.path().to_string()))
}

/// What a document says is meant: no text is taken for a number, no `yes` for true. The status of a large cluster's
/// roll-out may stand below the plan.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: 10_000_000, max_events: 20_000_000 },
        no_schema: true,
        strict_booleans: true,
        with_snippet: false,
    }
}

impl DocumentError {
    fn of(text: &str, error: &Error, path: &str) -> Self {
        let error = error.without_snippet();
        let location = error.location();
        let field = if path == "." { "" } else { path };
        Self {
            place: location.map(|place| (place.line(), place.column())),
            what: shown(&what(error, field, location.and_then(|place| value_at(text, place, field)))),
        }
    }

    fn no_text(content: &[u8], valid: usize) -> Self {
        let before = content.get(..valid).and_then(|text| str::from_utf8(text).ok()).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX).saturating_add(1);
        Self {
            place: Some((count(before.matches('\n').count()), count(line.chars().count()))),
            what: "this is no text: allowed is UTF-8".to_owned(),
        }
    }
}

/// In one line, of a length that people read.
fn shown(what: &str) -> String {
    let what = printable::line(what);
    let length = what.chars().count();
    if length <= HEAD + TAIL {
        return what.into_owned();
    }
    let head: String = what.chars().take(HEAD).collect();
    let tail: String = what.chars().skip(length - TAIL).collect();
    format!("{head}…{tail}")
}

fn what(error: &Error, field: &str, value: Option<String>) -> String {
    let of_document = if field.is_empty() { "the document" } else { field };
    match error {
        // What is wrong stands where the anchor is.
        Error::AliasError { error, .. } => what(error, field, value),
        Error::SerdeUnknownField { field: unknown, expected, .. } => {
            let parent = field.strip_suffix(unknown.as_str()).unwrap_or(field);
            format!("{parent}{unknown}: there is no such field; allowed are {}", expected.join(", "))
        }
        Error::SerdeMissingField { field: missing, .. } => {
            let missing = if field.is_empty() { (*missing).to_owned() } else { format!("{field}.{missing}") };
            match allowed(&missing) {
                Some(allowed) => format!("{missing} is missing; allowed is {allowed}"),
                None => format!("{missing} is missing"),
            }
        }
        Error::DuplicateMappingKey { key, .. } => {
            let parent = field.strip_suffix('?').unwrap_or_default();
            let key = key.as_deref().unwrap_or("a field");
            format!("{parent}{key} stands here a second time; allowed is once")
        }
        // The rule of a value has its own words.
        Error::Message { msg, .. } if !field.is_empty() => format!("{field}: {msg}"),
        Error::MultipleDocuments { .. } => {
            "a second document begins here; one plan stands in one file".to_owned()
        }
        Error::Eof { .. } => "there is no document here".to_owned(),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "this holds more than any plan does: allowed are lists and mappings in one another, and aliases, as people write them"
                .to_owned()
        }
        error if is_of_a_value(error) => {
            let allowed = allowed(field).map(|allowed| format!("; allowed is {allowed}")).unwrap_or_default();
            match value {
                Some(value) => format!("{of_document}: {value} is not allowed here{allowed}"),
                None => format!("{of_document}: nothing is not allowed here{allowed}"),
            }
        }
        error => {
            let words =
                error.render_with_options(serde_saphyr::render_options! { snippets: SnippetMode::Off });
            let words = words.split(" at line ").next().unwrap_or_default();
            format!("this is not YAML: {words}")
        }
    }
}

/// Whether a value has the wrong type.
fn is_of_a_value(error: &Error) -> bool {
    matches!(
        error,
        Error::Unexpected { .. }
            | Error::SerdeInvalidType { .. }
            | Error::SerdeInvalidValue { .. }
            | Error::SerdeUnknownVariant { .. }
            | Error::InvalidScalar { .. }
            | Error::NonFiniteFloat { .. }
            | Error::InvalidBinaryBase64 { .. }
            | Error::BinaryNotUtf8 { .. }
            | Error::TaggedScalarCannotDeserializeIntoString { .. }
            | Error::TaggedEnumMismatch { .. }
            | Error::UnexpectedValueForUnit { .. }
            | Error::InvalidBooleanStrict { .. }
            | Error::NullIntoString { .. }
            | Error::QuotingRequired { .. }
            | Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. }
            | Error::ExpectedStringKeyForExternallyTaggedEnum { .. }
            | Error::UnexpectedValueForUnitEnumVariant { .. }
    )
}

/// What stands at a place, or behind the field's name there, to the end of its line at most.
fn value_at(text: &str, place: Location, field: &str) -> Option<String> {
    let line = text.lines().nth(usize::try_from(place.line()).ok()?.checked_sub(1)?)?;
    let rest: String = line.chars().skip(usize::try_from(place.column()).ok()?.checked_sub(1)?).collect();
    let name = field.rsplit('.').next().unwrap_or_default();
    let value = rest.strip_prefix(name).unwrap_or(&rest);
    let value = value.strip_prefix(':').unwrap_or(value);
    let value = value.split(" #").next().unwrap_or_default().trim();
    let value = match value.chars().next()? {
        '[' | '{' | '"' | '\'' => value,
        // What encloses a list or a mapping in one line is none of its entries'.
        _ => value.split([',', ']', '}']).next().unwrap_or_default(),
    };
    let mut shown: String = value.chars().take(SHOWN).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    Some(shown)
}
