//! What two configurations have otherwise, setting by setting, and what of that a running daemon can change.

use super::Config;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A setting that two configurations have otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The key with its tables: `policy[0].ports`.
    pub key: String,
    /// What it is; null where it is not given.
    pub from: Value,
    /// What it will be.
    pub to: Value,
    /// Whether it can be changed while the daemon runs.
    pub live: bool,
}

/// Settings by key. A list of plain values is one setting, a list of tables many.
fn flatten(key: &str, value: Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(table) => {
            for (name, value) in table {
                let key = if key.is_empty() { name } else { format!("{key}.{name}") };
                flatten(&key, value, into);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for (index, value) in list.into_iter().enumerate() {
                // What has a name is the same in another place.
                let place = value["name"].as_str().map_or_else(|| index.to_string(), String::from);
                flatten(&format!("{key}[{place}]"), value, into);
            }
        }
        Value::Array(list) if list.is_empty() => {}
        value => {
            into.insert(key.to_owned(), value);
        }
    }
}

impl Config {
    /// What `next` has otherwise, by key.
    #[must_use]
    pub fn differences(&self, next: &Self) -> Vec<Difference> {
        let settings = |config: &Self| {
            let mut all = BTreeMap::new();
            flatten("", serde_json::to_value(config.effective()).unwrap_or_default(), &mut all);
            all
        };
        let (mut old, new) = (settings(self), settings(next));
        let has = |config: &Self, name: &str| config.interfaces.iter().any(|i| i.name == name);
        // An interface comes or goes as a whole.
        let comes_or_goes = |key: &str| {
            let name = key.strip_prefix("interface[").and_then(|rest| rest.split_once("]."));
            name.is_some_and(|(name, _)| has(self, name) != has(next, name))
        };
        let is_live = |key: &str| {
            key.starts_with("policy[") || key.starts_with("client[") || comes_or_goes(key)
        };
        let mut all = BTreeMap::new();
        for (key, to) in new {
            let from = old.remove(&key).unwrap_or_default();
            if from != to {
                all.insert(key, (from, to));
            }
        }
        all.extend(old.into_iter().map(|(key, from)| (key, (from, Value::Null))));
        let difference = |(key, (from, to)): (String, (Value, Value))| {
            let live = is_live(&key);
            Difference { key, from, to, live }
        };
        all.into_iter().map(difference).collect()
    }

    /// Takes over what a running daemon can change: interfaces, who may attach, as what, and whose ports are kept.
    pub(crate) fn adopt(&mut self, next: Self) {
        let Self { file, interfaces, policies, clients, raw, .. } = next;
        (self.file, self.policies, self.raw) = (file, policies, raw);
        (self.interfaces, self.clients) = (interfaces, clients);
    }
}
