//! Answers: the fields that programs read, and the tables that people read. Nothing here asks anything.

pub mod addons;
pub mod backups;
pub mod changes;
pub mod diff;
pub mod forecast;
pub mod gates;
pub mod history;
pub mod nodes;
pub mod plan;
pub mod pools;
pub mod protect;
pub mod restoration;
pub mod rollout;
pub mod tokens;
pub mod upgrade_plan;
pub mod versions;

/// A text of a message, whose empty one means that there is none.
fn said(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
