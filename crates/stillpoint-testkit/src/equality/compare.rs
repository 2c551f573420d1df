//! Compares two records, leaf by leaf.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Record, Rules};

/// One thing that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Where: `tasks/812/fds/3/info/pos`.
    pub path: String,
    /// The value before; `absent` if there was none.
    pub before: String,
    /// The value after; `absent` if there is none.
    pub after: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.path, self.before, self.after)
    }
}

/// What differs between two records once the rules have excused what they excuse.
#[must_use]
pub fn compare(before: &Record, after: &Record, rules: &Rules) -> Vec<Difference> {
    let value = |record: &Record| serde_json::to_value(rules.normalise(record)).unwrap_or(Value::Null);
    let mut out = Vec::new();
    walk("", Some(&value(before)), Some(&value(after)), &mut out);
    out
}

fn walk(path: &str, before: Option<&Value>, after: Option<&Value>, out: &mut Vec<Difference>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let mut keys = a.keys().chain(b.keys()).collect::<Vec<_>>();
            keys.sort();
            keys.dedup();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}/{key}") };
                walk(&path, a.get(key), b.get(key), out);
            }
        }
        _ => out.push(Difference { path: path.to_owned(), before: show(before), after: show(after) }),
    }
}

/// A value in one line; a whole subtree that is on one side only is cut short.
fn show(value: Option<&Value>) -> String {
    match value {
        None => "absent".to_owned(),
        Some(Value::String(s)) => s.clone(),
        Some(other) => {
            let mut text = other.to_string();
            if text.len() > 400 {
                text.truncate((0..=400).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0));
                text.push_str("...");
            }
            text
        }
    }
}
