//! `${name}` in strings: defaults from `[parameters]`, values from the command line, cycles and growth refused.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use quorate_protocols::job::limits::SPEC_BYTES_MAX;
use quorate_tables::{BadString, Strings, nearest};

/// Parameters of one specification.
pub const PARAMETERS_MAX: usize = 256;

/// The values, and which of them were asked for.
#[derive(Debug, Default)]
pub struct Parameters {
    values: BTreeMap<String, String>,
    given: BTreeSet<String>,
    declared: BTreeSet<String>,
    used: RefCell<BTreeSet<String>>,
}

/// A part of a string.
enum Part<'a> {
    Text(&'a str),
    Name(&'a str),
}

/// Cuts a string at its `${name}`s; `$${` stands for `${` itself.
fn parts(text: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            parts.push(Part::Text(&rest[..at - 1]));
            parts.push(Part::Text("${"));
            rest = &rest[at + 2..];
            continue;
        }
        parts.push(Part::Text(&rest[..at]));
        let (name, after) = rest[at + 2..]
            .split_once('}')
            .ok_or("has a `${` without its `}`; write `$${` for the characters themselves")?;
        parts.push(Part::Name(name));
        rest = after;
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

impl Parameters {
    /// `defaults` by name; `given` take their place and are taken literally. The faults name the default they are in.
    pub fn new(defaults: &BTreeMap<String, String>, given: &[(String, String)]) -> (Self, Vec<(String, String)>) {
        let given: BTreeMap<_, _> = given.iter().cloned().collect();
        let mut parameters = Self {
            given: given.keys().cloned().collect(),
            declared: defaults.keys().cloned().collect(),
            values: given,
            used: RefCell::default(),
        };
        let mut faults = Vec::new();
        for name in defaults.keys() {
            if let Err(problem) = parameters.settle(name, defaults, &mut Vec::new()) {
                faults.push((name.clone(), problem.0));
            }
        }
        (parameters, faults)
    }

    /// Gives the parameter its value, and those that its default refers to before it. As deep as there are parameters.
    fn settle(
        &mut self,
        name: &str,
        defaults: &BTreeMap<String, String>,
        path: &mut Vec<String>,
    ) -> Result<(), BadString> {
        let Some(default) = defaults.get(name).filter(|_| !self.values.contains_key(name)) else { return Ok(()) };
        if let Some(from) = path.iter().position(|before| before == name) {
            let circle = path[from..].iter().chain([&path[from]]).cloned().collect::<Vec<_>>().join(" -> ");
            return Err(format!("leads in a circle: {circle}").into());
        }
        path.push(name.to_owned());
        for part in parts(default)? {
            if let Part::Name(other) = part {
                self.settle(other, defaults, path)?;
            }
        }
        path.pop();
        let value = self.expand(default)?;
        self.values.insert(name.to_owned(), value);
        Ok(())
    }

    /// What was given and is neither declared nor used: most likely a typing error.
    pub fn unknown(&self) -> Vec<String> {
        let used = self.used.borrow();
        let known = || self.declared.iter().chain(used.iter()).map(String::as_str);
        let unknown = self.given.iter().filter(|name| !known().any(|known| known == name.as_str()));
        unknown
            .map(|name| {
                let known: BTreeSet<&str> = known().collect();
                match (nearest(name, known.iter().copied()), known.is_empty()) {
                    (Some(near), _) => format!("--set {name}: there is no such parameter; did you mean `{near}`?"),
                    (None, true) => format!("--set {name}: the specification has no parameters"),
                    (None, false) => {
                        let known: Vec<&str> = known.into_iter().collect();
                        format!("--set {name}: there is no such parameter, only {}", known.join(", "))
                    }
                }
            })
            .collect()
    }
}

impl Strings for Parameters {
    /// The string with every `${name}` replaced.
    fn expand(&self, text: &str) -> Result<String, BadString> {
        let mut expanded = String::new();
        for part in parts(text)? {
            match part {
                Part::Text(text) => expanded.push_str(text),
                Part::Name(name) => {
                    self.used.borrow_mut().insert(name.to_owned());
                    let value = self.values.get(name).ok_or_else(|| {
                        let hint = nearest(name, self.values.keys().map(String::as_str));
                        let hint = hint.map(|known| format!("; did you mean `${{{known}}}`?")).unwrap_or_default();
                        format!(
                            "needs the parameter `{name}`, which has no value: give it with `--set {name}=VALUE`{hint}"
                        )
                    })?;
                    expanded.push_str(value);
                }
            }
            if expanded.len() > SPEC_BYTES_MAX {
                return Err(format!("grows beyond {SPEC_BYTES_MAX} bytes with its parameters").into());
            }
        }
        Ok(expanded)
    }
}
