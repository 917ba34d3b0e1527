//! The schemas of the served description: values made from them, and values held against them.
//!
//! Only what the description uses is understood; another keyword is a failure, so that nothing goes unchecked.

use std::collections::BTreeMap;
use std::str::FromStr;

use quorate_protocols::ids::{Digest, Nonce};
use serde_json::{Map, Value, json};

use super::*;

/// Keywords that say nothing about a value's shape, or say it again.
const NOTES: [&str; 6] = ["description", "format", "default", "example", "propertyNames", "deprecated"];

/// A row of numbers from which a test draws its choices. An exhausted row draws 0, which is the plainest choice.
pub struct Choices<'a>(pub std::slice::Iter<'a, u32>);

impl Choices<'_> {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0.next().map_or(0, |number| *number as usize % limit)
    }
    pub fn of<T: Clone>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())].clone()
    }
    /// True once in so many.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }
}

pub struct Schemas {
    pub components: Map<String, Value>,
    /// Ids that mean something to the node under test, by the name of their schema.
    pub known: BTreeMap<&'static str, Vec<String>>,
}

impl Schemas {
    pub fn new(description: &Value) -> Self {
        let components = description["components"]["schemas"].as_object().expect("schemas").clone();
        Self { components, known: BTreeMap::new() }
    }

    /// The name and the schema that a reference means.
    pub fn referred(&self, schema: &Value) -> Option<(String, &Value)> {
        let name = schema.get("$ref")?.as_str()?.strip_prefix("#/components/schemas/").expect("a component").to_owned();
        let found = self.components.get(&name).unwrap_or_else(|| panic!("{name} is not described"));
        Some((name, found))
    }

    /// A value that the schema allows.
    pub fn make(&self, schema: &Value, choices: &mut Choices<'_>) -> Value {
        if let Some((name, inner)) = self.referred(schema) {
            return match self.known.get(name.as_str()) {
                Some(known) => choices.of(known).into(),
                None => self.make(inner, choices),
            };
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            return choices.of(values);
        }
        if let Some(any) = schema.get("oneOf").and_then(Value::as_array) {
            let one = choices.of(any);
            return self.make(&one, choices);
        }
        match choices.of(&types(schema)).as_str() {
            "null" => Value::Null,
            "boolean" => choices.of(&[false, true]).into(),
            "integer" | "number" => match schema.get("minimum").and_then(Value::as_u64) {
                Some(least) => choices.of(&[least, 1, 2, 7, 100, 70_000, 1 << 32, i64::MAX as u64]).into(),
                None => choices.of(&[0, 1, -1, 5, i64::MIN]).into(),
            },
            "string" if schema.get("pattern").is_some() => "ab".repeat(16).into(),
            "string" => choices.of(&["a", "", "me", "live", "1s", "kind = \"wasm\"", "é\u{0}\n%2F", "4+2"]).into(),
            "array" => {
                let count = choices.below(3);
                (0..count).map(|_| self.make(&schema["items"], choices)).collect()
            }
            "object" => {
                let mut made = Map::new();
                for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                    if required(schema, name) || choices.once_in(2) {
                        made.insert(name.clone(), self.make(inner, choices));
                    }
                }
                if let Some(inner) = schema.get("additionalProperties").filter(|inner| inner.is_object()) {
                    made.insert("a".to_owned(), self.make(inner, choices));
                }
                Value::Object(made)
            }
            other => panic!("no value is made for {other} in {schema}"),
        }
    }

    /// What of the value the schema does not allow.
    pub fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        if let Some((name, inner)) = self.referred(schema) {
            return self.check(inner, value, at).and_then(|()| is_id(&name, value, at));
        }
        let Value::Object(keywords) = schema else { return Ok(()) };
        if let Some(any) = keywords.get("oneOf").and_then(Value::as_array) {
            let faults: Vec<_> = any.iter().filter_map(|one| self.check(one, value, at).err()).collect();
            return if faults.len() < any.len() { Ok(()) } else { Err(faults.join("; or ")) };
        }
        let properties = self.properties(schema);
        for (keyword, said) in keywords {
            let holds = match keyword.as_str() {
                "type" => types(schema).iter().any(|kind| is_type(kind, value)),
                "enum" => said.as_array().is_some_and(|values| values.contains(value)),
                "minimum" => value.as_f64().zip(said.as_f64()).is_none_or(|(value, least)| value >= least),
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(said, item, &format!("{at}[{index}]"))?;
                    }
                    true
                }
                "allOf" => {
                    for part in said.as_array().into_iter().flatten() {
                        self.check_properties(part, value, at)?;
                    }
                    true
                }
                "properties" => self.check_properties(schema, value, at).map(|()| true)?,
                "additionalProperties" => {
                    let more = value.as_object().into_iter().flatten();
                    for (name, inner) in more.filter(|(name, _)| !properties.contains_key(*name)) {
                        self.check(said, inner, &format!("{at}.{name}"))?;
                    }
                    true
                }
                // Ids are read, which says more.
                "pattern" | "required" => true,
                "minItems" | "maxItems" => true,
                note if NOTES.contains(&note) => true,
                other => return Err(format!("{at}: the keyword {other} is not understood")),
            };
            if !holds {
                return Err(format!("{at}: {value} is against {keyword} {said}"));
            }
        }
        let is_closed = !properties.is_empty() && !keywords.contains_key("additionalProperties");
        let unknown = value.as_object().into_iter().flatten().find(|(name, _)| !properties.contains_key(*name));
        match unknown.filter(|_| is_closed) {
            Some((name, _)) => Err(format!("{at}: {name} is not described")),
            None => Ok(()),
        }
    }

    fn check_properties(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let schema = self.referred(schema).map_or(schema, |(_, inner)| inner);
        for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.check_properties(part, value, at)?;
        }
        for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            match value.get(name) {
                Some(found) => self.check(inner, found, &format!("{at}.{name}"))?,
                None if value.is_object() && required(schema, name) => return Err(format!("{at}: {name} is missing")),
                None => (),
            }
        }
        Ok(())
    }

    /// All properties, those of the parts included.
    pub fn properties(&self, schema: &Value) -> BTreeMap<String, Value> {
        let schema = self.referred(schema).map_or(schema, |(_, inner)| inner);
        let own = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let mut all: BTreeMap<_, _> = own.map(|(name, inner)| (name.clone(), inner.clone())).collect();
        for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            all.extend(self.properties(part));
        }
        all
    }
}

fn required(schema: &Value, name: &str) -> bool {
    schema.get("required").and_then(Value::as_array).is_some_and(|names| names.contains(&json!(name)))
}

fn types(schema: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().expect("a type's name").to_owned();
    match schema.get("type") {
        Some(Value::Array(several)) => several.iter().map(text).collect(),
        Some(one) => vec![text(one)],
        None => vec!["null".to_owned()],
    }
}

fn is_type(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

/// An id is one that reads back.
fn is_id(name: &str, value: &Value, at: &str) -> Result<(), String> {
    fn reads<T: FromStr>(text: &str) -> bool {
        text.parse::<T>().is_ok()
    }
    let reads = match name {
        "QuorumId" => reads::<QuorumId>,
        "JobId" => reads::<JobId>,
        "ObjectId" => reads::<ObjectId>,
        "PeerId" => reads::<PeerId>,
        "Digest" => reads::<Digest>,
        "Nonce" => reads::<Nonce>,
        _ => return Ok(()),
    };
    match value.as_str() {
        Some(text) if reads(text) => Ok(()),
        _ => Err(format!("{at}: {value} is no {name}")),
    }
}
