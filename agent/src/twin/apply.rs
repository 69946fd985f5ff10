//! Server-side apply as API servers do it, as far as add-ons show it: maps are merged, lists are replaced, what a manager
//! applied before and no longer applies goes, and what others own is changed only where it is taken over.

use serde_json::{Map, Value, json};

/// An object, and what of it the manager applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Managed {
    /// As it is served.
    pub object: Value,
    /// What was applied last; null where somebody else made the object.
    pub applied: Value,
    /// The manager of everything that was there before: `kubectl`. `None` where it is nobody's.
    pub other: Option<String>,
}

/// What applying a configuration comes to, or the conflict in the API server's words.
pub fn apply(before: Option<&Managed>, configuration: &Value, take_over: bool) -> Result<Managed, String> {
    let Some(before) = before else {
        return Ok(Managed { object: configuration.clone(), applied: configuration.clone(), other: None });
    };
    if let Some(other) = before.other.as_ref().filter(|_| !take_over) {
        let mut theirs = Vec::new();
        conflicts("", &before.object, &before.applied, configuration, &mut theirs);
        if !theirs.is_empty() {
            let plural = if theirs.len() == 1 { "" } else { "s" };
            return Err(format!(
                "Apply failed with {} conflict{plural}: conflict{plural} with \"{other}\": {}",
                theirs.len(),
                theirs.join(", ")
            ));
        }
    }
    let mut object = before.object.clone();
    forget(&mut object, &before.applied, configuration);
    merge(&mut object, configuration);
    Ok(Managed { object, applied: configuration.clone(), other: before.other.clone() })
}

/// Fields that somebody else owns and that the configuration would change.
fn conflicts(path: &str, now: &Value, applied: &Value, wanted: &Value, found: &mut Vec<String>) {
    match (now, wanted) {
        (Value::Object(now), Value::Object(wanted)) => {
            for (name, wanted) in wanted {
                if let Some(now) = now.get(name) {
                    let applied = applied.get(name).unwrap_or(&Value::Null);
                    conflicts(&format!("{path}.{name}"), now, applied, wanted, found);
                }
            }
        }
        _ if now == wanted || now == applied => {}
        _ => found.push(path.to_owned()),
    }
}

/// Takes away what was applied and is not in the configuration any more.
fn forget(object: &mut Value, applied: &Value, wanted: &Value) {
    let (Value::Object(object), Value::Object(applied)) = (object, applied) else { return };
    for (name, applied) in applied {
        match (wanted.get(name), object.get_mut(name)) {
            (None, Some(Value::Object(below))) if applied.is_object() => {
                let mut rest = Value::Object(std::mem::take(below));
                forget(&mut rest, applied, &json!({}));
                let empty = rest.as_object().is_some_and(Map::is_empty);
                if empty {
                    object.remove(name);
                } else {
                    object.insert(name.clone(), rest);
                }
            }
            (None, Some(_)) => {
                object.remove(name);
            }
            (Some(wanted), Some(below)) => forget(below, applied, wanted),
            (_, None) => {}
        }
    }
}

fn merge(object: &mut Value, wanted: &Value) {
    match (object, wanted) {
        (Value::Object(object), Value::Object(wanted)) => {
            for (name, wanted) in wanted {
                merge(object.entry(name.clone()).or_insert(Value::Null), wanted);
            }
        }
        (object, wanted) => *object = wanted.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_applied_and_is_no_longer_goes_and_what_others_set_stays() {
        let made = apply(None, &json!({"data": {"a": "1", "b": "2"}}), false).unwrap();
        let mut foreign = made;
        foreign.object["data"]["c"] = json!("3");
        let again = apply(Some(&foreign), &json!({"data": {"a": "9"}}), false).unwrap();
        assert_eq!(again.object, json!({"data": {"a": "9", "c": "3"}}));
    }

    #[test]
    fn what_others_own_is_changed_only_where_it_is_taken_over() {
        let theirs = Managed {
            object: json!({"spec": {"replicas": 2, "image": "a"}}),
            applied: Value::Null,
            other: Some("kubectl".to_owned()),
        };
        let same = json!({"spec": {"replicas": 2}});
        assert!(apply(Some(&theirs), &same, false).is_ok());
        let other = json!({"spec": {"replicas": 3}});
        let conflict = apply(Some(&theirs), &other, false).unwrap_err();
        assert_eq!(conflict, "Apply failed with 1 conflict: conflict with \"kubectl\": .spec.replicas");
        assert_eq!(apply(Some(&theirs), &other, true).unwrap().object["spec"]["replicas"], 3);
    }
}
