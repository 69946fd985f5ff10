//! Edits to a roll-out that goes on: only how it is conducted. What was agreed to and sealed by the plan's hash stays.

use super::{Followed, Keeper, KeeperError};
use crate::core::history::{HistoryKind, HistoryRecord};
use crate::core::path::Path;
use crate::core::rollout::{Event, Rollout};
use crate::document::{Difference, UpgradePlan, differences};
use crate::store::records::Change;

/// The fields that may change while a roll-out goes on: each only holds nodes back that were not begun on.
const EDITABLE: [&str; 3] = ["spec.windows", "spec.alerts", HOOKS];

/// Where they do not run on nodes.
const HOOKS: &str = "spec.hooks";

impl Keeper {
    /// Has the present roll-out go on as this document says, which may say something else only of how it is conducted.
    pub fn edit(&self, document: &UpgradePlan, operator: &str) -> Result<(), KeeperError> {
        self.edit_as(document, operator, None)
    }

    /// The same for a document that is followed, given by its hash.
    pub fn edit_by_document(
        &self,
        document: &UpgradePlan,
        followed: &Followed,
        hash: String,
    ) -> Result<(), KeeperError> {
        self.edit_as(document, &followed.to_string(), Some((followed, hash)))
    }

    fn edit_as(
        &self,
        document: &UpgradePlan,
        operator: &str,
        acted_on: Option<(&Followed, String)>,
    ) -> Result<(), KeeperError> {
        let mut state = self.lock();
        let (number, rollout) = state.present()?;
        let found = differences(&wanted(rollout).spec, &document.spec)
            .map_err(|error| KeeperError::Invalid(format!("the document cannot be compared: {error}")))?;
        // What nodes call is among their steps.
        let steps = document.spec.hooks.of_nodes() != rollout.plan.policy.node_hooks;
        let editable = |found: &&Difference| {
            let sealed = steps && is_within(&found.field, HOOKS);
            !sealed && EDITABLE.iter().any(|field| is_within(&found.field, field))
        };
        let (changed, sealed): (Vec<&Difference>, Vec<&Difference>) = found.iter().partition(editable);
        if !sealed.is_empty() {
            let fields: Vec<String> = sealed
                .iter()
                .map(|Difference { field, one, other }| format!("{field} (it is {one}, and not {other})"))
                .collect();
            return Err(KeeperError::NotNow(format!(
                "what the plan seals cannot be changed while its roll-out goes on: {}; allowed are {}; for the rest \
                 `liftlock abort`, and apply another document",
                fields.join(", "),
                listed(&EDITABLE)
            )));
        }
        if changed.is_empty() {
            // A document that only says what goes on already is looked at again once that has ended.
            return match acted_on {
                None => Ok(()),
                Some(_) => Err(KeeperError::NotNow("it says nothing else than what goes on".to_owned())),
            };
        }
        let conduct = document.conduct();
        let path = Path { first: rollout.plan.clone(), onward: Vec::new() };
        let refusals = state.conduct_refusals(&path, &conduct, self.clock.as_ref());
        if !refusals.is_empty() {
            let why: Vec<String> = refusals.into_iter().map(|refusal| refusal.message).collect();
            return Err(KeeperError::NotNow(format!("the roll-out goes on as it was: {}", why.join("; "))));
        }
        let fields: Vec<&str> = changed.iter().map(|found| found.field.as_str()).collect();
        let text = format!("from now on with another {}", fields.join(", "));
        let plan = Some(rollout.plan.id.clone());
        let record = HistoryRecord {
            plan,
            operator: Some(operator.to_owned()),
            ..self.record(HistoryKind::Edited, text)
        };
        // In one batch: a document of which that was not remembered would be begun with after an abort.
        let remembered = acted_on.map(|(followed, hash)| followed.remember(hash, Some(number)));
        let change = Change { history: vec![record], ..remembered.unwrap_or_default() };
        self.happen_with(&mut state, &Event::Edited { conduct }, change)?;
        state.ask_anew();
        self.advance(&mut state);
        Ok(())
    }
}

/// The document that a roll-out carries out.
fn wanted(rollout: &Rollout) -> UpgradePlan {
    let target = rollout.leg.onward.last().map_or(rollout.plan.to_version, |stop| stop.to_version);
    UpgradePlan::new(target, rollout.plan.policy.clone()).conducted(rollout.conduct.clone())
}

/// `a, b and c`
fn listed(words: &[&str]) -> String {
    match words.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Whether a field is another one, or a part of it.
fn is_within(field: &str, whole: &str) -> bool {
    field.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
