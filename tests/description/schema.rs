//! The schemas of the API's description: values made from them, and values held against them.
//!
//! Only what the description uses is understood. Another keyword is a fault, so that nothing goes unchecked.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Keywords that say nothing about a value, or say it again.
const NOTES: [&str; 6] = ["description", "format", "default", "example", "propertyNames", "deprecated"];

/// A row of draws that follows from its seed. The plain row draws 0 for ever, which is the plainest choice each time.
pub struct Choices(Option<blake3::OutputReader>);

impl Choices {
    pub fn plain() -> Self {
        Self(None)
    }
    pub fn of_seed(seed: &str) -> Self {
        Self(Some(blake3::Hasher::new().update(seed.as_bytes()).finalize_xof()))
    }
    pub fn below(&mut self, limit: usize) -> usize {
        let mut bytes = [0; 4];
        if let Some(reader) = &mut self.0 {
            reader.fill(&mut bytes);
        }
        u32::from_le_bytes(bytes) as usize % limit
    }
    pub fn pick<T: Clone>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())].clone()
    }
    /// True once in so many.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }
}

pub struct Schemas {
    components: Map<String, Value>,
    /// Values that mean something to the node under test, by the name of their schema. The first is the plainest.
    pub of_schema: BTreeMap<&'static str, Vec<Value>>,
    /// The same by the name of a field or a parameter, which goes first.
    pub of_field: BTreeMap<&'static str, Vec<Value>>,
}

impl Schemas {
    pub fn new(description: &Value) -> Self {
        let components = description["components"]["schemas"].as_object().expect("schemas").clone();
        Self { components, of_schema: BTreeMap::new(), of_field: BTreeMap::new() }
    }

    /// The name and the schema that a reference means.
    fn referred<'a>(&'a self, schema: &'a Value) -> Option<(&'a str, &'a Value)> {
        let name = schema.get("$ref")?.as_str()?.strip_prefix("#/components/schemas/").expect("a component");
        let found = self.components.get(name).unwrap_or_else(|| panic!("{name} is not described"));
        Some((name, found))
    }

    /// The schema itself, if this refers to one.
    pub fn whole<'a>(&'a self, schema: &'a Value) -> &'a Value {
        self.referred(schema).map_or(schema, |(_, inner)| inner)
    }

    /// The fields that the schema has, each with its schema.
    pub fn fields(&self, schema: &Value) -> Vec<(String, Value)> {
        self.properties(schema).into_iter().collect()
    }

    /// The names of the fields that have to be there.
    pub fn required(&self, schema: &Value) -> Vec<String> {
        let fields = self.fields(schema).into_iter().map(|(name, _)| name);
        fields.filter(|name| required(self.whole(schema), name)).collect()
    }

    /// Values that the schema does not allow.
    pub fn unfit(&self, schema: &Value) -> Vec<Value> {
        let junk = [
            json!(null),
            json!(-1),
            json!(1.5),
            json!("\u{0}"),
            json!([[]]),
            json!({ "a": {} }),
            json!(true),
            json!(u64::MAX),
        ];
        junk.into_iter().filter(|junk| self.check(schema, junk, "").is_err()).collect()
    }

    /// A value of a field or a parameter that its schema allows.
    pub fn make_field(&self, name: &str, schema: &Value, choices: &mut Choices) -> Value {
        match self.of_field.get(name) {
            Some(known) if !choices.once_in(12) => choices.pick(known),
            _ => self.make(schema, choices),
        }
    }

    /// A value that the schema allows.
    pub fn make(&self, schema: &Value, choices: &mut Choices) -> Value {
        if let Some((name, inner)) = self.referred(schema) {
            return match self.of_schema.get(name) {
                Some(known) => choices.pick(known),
                None => self.make(inner, choices),
            };
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            return choices.pick(values);
        }
        if let Some(any) = schema.get("oneOf").and_then(Value::as_array) {
            let one = choices.pick(any);
            return self.make(&one, choices);
        }
        match choices.pick(&types(schema)).as_str() {
            "null" => Value::Null,
            "boolean" => choices.pick(&[false, true]).into(),
            "integer" | "number" => {
                let least = schema.get("minimum").and_then(Value::as_i64);
                let most = schema.get("maximum").and_then(Value::as_i64).unwrap_or(match schema["format"].as_str() {
                    Some("int32") => i64::from(i32::MAX),
                    _ => i64::MAX,
                });
                let first = least.unwrap_or(0);
                choices.pick(&[first, first + 1, 2.clamp(first, most), 70_000.clamp(first, most), most]).into()
            }
            "string" if schema.get("pattern").is_some() => "ab".repeat(16).into(),
            "string" => choices.pick(&["a", "", "me", "é\u{0}\n%2F", "12D3KooW"]).into(),
            "array" => {
                let count = choices.below(3);
                (0..count).map(|_| self.make(&schema["items"], choices)).collect()
            }
            "object" => {
                let mut made = Map::new();
                for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                    if required(schema, name) || choices.once_in(2) {
                        made.insert(name.clone(), self.make_field(name, inner, choices));
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
            return self.check(inner, value, at).map_err(|fault| match fault.contains(" is no ") {
                true => fault,
                false => format!("{fault} ({name})"),
            });
        }
        let Value::Object(keywords) = schema else { return Ok(()) };
        if let Some(any) = keywords.get("oneOf").and_then(Value::as_array) {
            let faults: Vec<_> = any.iter().filter_map(|one| self.check(one, value, at).err()).collect();
            // Exactly one, as the word says.
            return match any.len() - faults.len() {
                1 => Ok(()),
                0 => Err(faults.join("; or ")),
                _ => Err(format!("{at}: {value} fits more than one of {any:?}")),
            };
        }
        let properties = self.properties(schema);
        for (keyword, said) in keywords {
            let holds = match keyword.as_str() {
                "type" => types(schema).iter().any(|kind| is_type(kind, value)),
                "enum" => said.as_array().is_some_and(|values| values.contains(value)),
                "minimum" => value.as_f64().zip(said.as_f64()).is_none_or(|(value, least)| value >= least),
                "maximum" => value.as_f64().zip(said.as_f64()).is_none_or(|(value, most)| value <= most),
                "pattern" => value.as_str().is_none_or(|text| fits(said.as_str().expect("a pattern"), text)),
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
                        match said {
                            Value::Bool(false) => return Err(format!("{at}: {name} is not described")),
                            said => self.check(said, inner, &format!("{at}.{name}"))?,
                        }
                    }
                    true
                }
                // Looked at beside the properties.
                "required" => true,
                note if NOTES.contains(&note) => true,
                other => return Err(format!("{at}: the keyword {other} is not understood")),
            };
            if !holds {
                return Err(format!("{at}: {value} is against {keyword} {said}"));
            }
        }
        if is_object_without_fields(schema) {
            return Err(format!("{at}: nothing is said of the fields of {value}"));
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
    fn properties(&self, schema: &Value) -> BTreeMap<String, Value> {
        let schema = self.referred(schema).map_or(schema, |(_, inner)| inner);
        let own = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let mut all: BTreeMap<_, _> = own.map(|(name, inner)| (name.clone(), inner.clone())).collect();
        for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            all.extend(self.properties(part));
        }
        all
    }
}

fn is_object_without_fields(schema: &Value) -> bool {
    let says = |keyword: &str| schema.get(keyword).is_some();
    schema["type"] == "object" && !["properties", "additionalProperties", "allOf"].into_iter().any(says)
}

fn required(schema: &Value, name: &str) -> bool {
    schema.get("required").and_then(Value::as_array).is_some_and(|names| names.contains(&json!(name)))
}

pub fn types(schema: &Value) -> Vec<String> {
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

/// Whether the text fits the pattern: characters, classes and escapes in a row, each once, `{n}` times, or `+`.
fn fits(pattern: &str, text: &str) -> bool {
    let inner = pattern.strip_prefix('^').and_then(|rest| rest.strip_suffix('$'));
    let mut rest: Vec<char> = inner.unwrap_or_else(|| panic!("{pattern} is not anchored")).chars().rev().collect();
    let mut text = text.chars().peekable();
    while let Some(first) = rest.pop() {
        let mut ranges = Vec::new();
        match first {
            '\\' => {
                let escaped = rest.pop().expect("an escaped character");
                ranges.push((escaped, escaped));
            }
            '[' => loop {
                match rest.pop().expect("the end of the class") {
                    ']' => break,
                    from if rest.last() == Some(&'-') => {
                        rest.pop();
                        ranges.push((from, rest.pop().expect("the end of the range")));
                    }
                    one => ranges.push((one, one)),
                }
            },
            '(' | '|' | '.' | '*' | '?' => panic!("{pattern}: {first} is not understood"),
            one => ranges.push((one, one)),
        }
        let (least, most) = match rest.last() {
            Some('+') => (1, usize::MAX),
            Some('{') => {
                let end = rest.iter().rposition(|c| *c == '}').expect("the end of the count");
                let count: String = rest[end + 1..rest.len() - 1].iter().rev().collect();
                rest.truncate(end + 1);
                let count = count.parse().expect("one number");
                (count, count)
            }
            _ => (1, 1),
        };
        if most != 1 {
            rest.pop();
        }
        let mut found = 0;
        while found < most && text.next_if(|c| ranges.iter().any(|(from, to)| from <= c && c <= to)).is_some() {
            found += 1;
        }
        if found < least {
            return false;
        }
    }
    text.next().is_none()
}

#[test]
fn values_are_held_to_their_schemas() {
    for (pattern, good, bad) in [
        ("^[0-9a-f]{4}\\.[0-9]{2}$", "ab01.12", ["ab01x12", "ab01.1", "ab01.123"]),
        ("^12D[1-9A-HJ]{2}$", "12D1J", ["12D1I", "12d1J", "12D0J"]),
        ("^[0-9]+\\+[0-9]+$", "4+12", ["4-2", "+2", "4+"]),
    ] {
        assert!(fits(pattern, good), "{pattern} {good}");
        bad.iter().for_each(|bad| assert!(!fits(pattern, bad), "{pattern} {bad}"));
    }
    let described = json!({ "components": { "schemas": { "Id": { "type": "string", "pattern": "^[a-f]{2}$" } } } });
    let schemas = Schemas::new(&described);
    let schema = json!({
        "type": "object",
        "required": ["id"],
        "properties": {
            "id": { "$ref": "#/components/schemas/Id" },
            "count": { "type": ["integer", "null"], "minimum": 1, "maximum": 5 },
            "any": { "type": "object" },
            "word": { "oneOf": [{ "type": "null" }, { "enum": ["on", "off"] }] },
        },
    });
    let check = |value: Value| schemas.check(&schema, &value, "it");
    for good in [
        json!({ "id": "ab" }),
        json!({ "id": "ff", "count": null, "word": null }),
        json!({ "id": "aa", "count": 5, "word": "on" }),
    ] {
        assert_eq!(check(good.clone()), Ok(()), "{good}");
    }
    for (bad, word) in [
        (json!({}), "missing"),
        (json!({ "id": "xy" }), "pattern"),
        (json!({ "id": 7 }), "type"),
        (json!({ "id": "ab", "count": 6 }), "maximum"),
        (json!({ "id": "ab", "count": 0 }), "minimum"),
        (json!({ "id": "ab", "word": "up" }), "enum"),
        (json!({ "id": "ab", "more": 1 }), "not described"),
        (json!([]), "type"),
        (json!({ "id": "ab", "any": {} }), "nothing is said"),
    ] {
        assert!(check(bad.clone()).is_err_and(|fault| fault.contains(word)), "{bad}");
    }
}
