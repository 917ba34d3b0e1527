//! The served description is the one that is checked in, and names fields by one rule.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::*;

const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");

fn described() -> Value {
    serde_json::to_value(description(true)).unwrap()
}

/// Goal: a change of the API is seen in a review. Method: compare; `UPDATE_FIXTURES=1` rewrites the file.
#[test]
fn the_description_is_the_one_that_is_checked_in() {
    let served = format!("{:#}\n", described());
    if std::env::var_os("UPDATE_FIXTURES").is_some_and(|value| value == "1") {
        return std::fs::write(CHECKED_IN, served).unwrap();
    }
    let kept = std::fs::read_to_string(CHECKED_IN).unwrap_or_default();
    assert!(
        kept == served,
        "docs/openapi.json is not what the node serves; if the change is meant: UPDATE_FIXTURES=1 and this test again"
    );
}

/// Goal: no route is open to a token by oversight. Method: the routes and the table of verbs, each in the other.
#[test]
fn every_route_has_a_verb_and_every_verb_its_routes() {
    let description = described();
    let mut routes = std::collections::BTreeSet::from([("GET".to_owned(), "/openapi.json".to_owned())]);
    for (path, operations) in description["paths"].as_object().unwrap() {
        routes.extend(operations.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())));
    }
    let table = quorate_api::ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
    assert_eq!(routes, table);
    for verb in quorate_api::Verb::ALL {
        assert!(quorate_api::ROUTES.iter().any(|route| route.verb == *verb), "{verb} opens nothing");
    }
}

/// The schemas of the description.
struct Schemas {
    components: Map<String, Value>,
}

impl Schemas {
    fn new(description: &Value) -> Self {
        Self { components: description["components"]["schemas"].as_object().expect("schemas").clone() }
    }

    /// The name and the schema that a reference means.
    fn referred(&self, schema: &Value) -> Option<(String, &Value)> {
        let name = schema.get("$ref")?.as_str()?.strip_prefix("#/components/schemas/").expect("a component").to_owned();
        let found = self.components.get(&name).unwrap_or_else(|| panic!("{name} is not described"));
        Some((name, found))
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

/// The values of an object.
fn values(value: &Value) -> Vec<&Value> {
    value.as_object().into_iter().flatten().map(|(_, inner)| inner).collect()
}

/// Goal: an answer can have another field later, and whoever reads one list reads all. Method: no body is an array.
#[test]
fn lists_are_answered_in_one_form() {
    let (description, mut lists) = (described(), 0);
    let schemas = Schemas::new(&description);
    for operation in values(&description["paths"]).into_iter().flat_map(values) {
        for response in values(&operation["responses"]) {
            let Some(body) = response["content"].get("application/json") else { continue };
            let (name, schema) = schemas.referred(&body["schema"]).unwrap_or((String::new(), &body["schema"]));
            assert_ne!(schema["type"], "array", "{} answers with a bare array", operation["operationId"]);
            lists += usize::from(name.starts_with("Listing_"));
        }
    }
    assert_eq!(lists, 10, "the walk misses some, or there is a new one");
}

/// Whether the schema holds an instant, by itself, in an array or where it may be null.
fn holds_instant(schemas: &Schemas, schema: &Value) -> bool {
    let inner =
        schema.get("items").into_iter().chain(schema.get("oneOf").and_then(Value::as_array).into_iter().flatten());
    schemas.referred(schema).is_some_and(|(name, _)| name == "Millis")
        || inner.into_iter().any(|inner| holds_instant(schemas, inner))
}

/// Goal: whoever has read one answer knows what a name in another means.
#[test]
fn names_say_what_a_value_is() {
    let schemas = Schemas::new(&described());
    let mut seen = (0, 0);
    for (owner, schema) in &schemas.components {
        for (name, inner) in schemas.properties(schema) {
            let instant = holds_instant(&schemas, &inner);
            assert_eq!(instant, name.ends_with("_at"), "{owner}.{name}: instants, and nothing else, end in _at");
            assert!(!(name == "size" || name.ends_with("_size")), "{owner}.{name}: sizes are bytes");
            let id = ["peer_id", "job_id", "quorum_id", "object_id"].contains(&name.as_str());
            assert!(!id, "{owner}.{name}: an id is named by what it identifies");
            seen = (seen.0 + 1, seen.1 + usize::from(instant));
        }
    }
    assert!(seen.0 > 200 && seen.1 > 15, "{seen:?} fields and instants were found: the walk misses some");
}
