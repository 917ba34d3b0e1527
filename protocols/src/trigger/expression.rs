//! Expressions over event data and observed values: CEL, with every cost bounded before it is paid.
//!
//! *Size*: the text is at most [`EXPRESSION_BYTES_MAX`] long, its tree has at most [`EXPRESSION_NODES_MAX`] nodes and
//! is at most [`EXPRESSION_DEPTH_MAX`] deep; data is capped where it comes in. *Names*: only the given variables may be
//! used. *Time and memory*: CEL always ends, but a macro within a macro multiplies. So an upper bound of the work is
//! computed from the tree and the size of the data, and what could exceed [`EXPRESSION_WORK_MAX`] is not begun: an
//! expression that would be too dear on a mere [`SMALL_DATA`] bytes is refused when it is written, the others when the
//! data is too large for them. Nothing is interrupted, so an answer never depends on how fast a machine is.
//!
//! The answer is a decision of the primary and travels in the entry it proposes; no member evaluates while it applies.

use std::collections::{BTreeMap, HashMap};

use cel::common::ast::{EntryExpr, Expr, LiteralValue};
use cel::parser::PrattParser;
use cel::{Context, IdedExpr, Value};

use super::limits::{EXPRESSION_BYTES_MAX, EXPRESSION_DEPTH_MAX, EXPRESSION_NODES_MAX, EXPRESSION_WORK_MAX};

/// Data that every expression must be able to look at, in bytes.
const SMALL_DATA: u64 = 256;

/// Levels that the parser goes down. It needs little stack for one; evaluation needs much, and `EXPRESSION_DEPTH_MAX`
/// bounds that.
const PARSER_DEPTH_MAX: u16 = 64;

/// Bytes of an evaluation's error that are kept.
const ERROR_BYTES_MAX: usize = 200;

/// An expression that was read and found cheap enough.
#[derive(Debug)]
pub struct Expression {
    tree: IdedExpr,
}

/// An upper bound: bytes that a value takes as JSON (so also how many elements it has), and steps to get it.
#[derive(Clone, Copy)]
struct Bound {
    size: u64,
    work: u64,
}

impl Expression {
    /// Reads an expression over these variables. The error says what is wrong, for the key it was found under.
    pub fn compile(text: &str, variables: &[&str]) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("the expression is empty".to_owned());
        }
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(format!("{} bytes, more than the {EXPRESSION_BYTES_MAX} allowed", text.len()));
        }
        // cel's other parser takes more stack for a dozen brackets than a thread has.
        let parser = PrattParser::new()
            .max_recursion_depth(PARSER_DEPTH_MAX)
            .max_expression_node_count(EXPRESSION_NODES_MAX)
            .error_recovery_limit(1)
            .error_reporting_limit(1);
        let tree = parser.parse(text).map_err(|errors| {
            errors.errors.first().map_or_else(
                || "not an expression".to_owned(),
                |error| format!("not an expression, at character {}: {}", error.pos.1, short(&error.msg)),
            )
        })?;
        let mut nodes = 0;
        if depth(&tree, &mut nodes) > EXPRESSION_DEPTH_MAX || nodes > EXPRESSION_NODES_MAX {
            return Err(format!(
                "nested deeper than {EXPRESSION_DEPTH_MAX} levels, or of more than {EXPRESSION_NODES_MAX} parts"
            ));
        }
        let mut names = variables.to_vec();
        check_names(&tree.expr, &mut names)?;
        let expression = Self { tree };
        expression.check_work(SMALL_DATA)?;
        Ok(expression)
    }

    /// Whether it holds. `bytes` is the length of the data as JSON.
    pub fn holds(&self, variables: &[(&str, &serde_json::Value)], bytes: usize) -> Result<bool, String> {
        self.check_work(bytes as u64)?;
        let mut context = Context::default();
        for (name, value) in variables {
            context.add_variable_from_value(*name, converted(value));
        }
        match Value::resolve(&self.tree, &context) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err("the expression is neither true nor false".to_owned()),
            Err(error) => Err(short(&error.to_string())),
        }
    }

    fn check_work(&self, bytes: u64) -> Result<(), String> {
        let data = bytes.max(1);
        let work = bound(&self.tree, data, &mut BTreeMap::new()).work;
        if work > EXPRESSION_WORK_MAX {
            return Err(format!(
                "on {bytes} bytes of data it could take {work} steps, and {EXPRESSION_WORK_MAX} are allowed: put less \
                 into the macros (all, exists, map, filter)"
            ));
        }
        Ok(())
    }
}

/// JSON as the expression sees it. Whole numbers are signed, as the expression's own are, so that they can be added up.
fn converted(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::UInt(number),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.clone()),
        Json::Array(items) => Value::from(items.iter().map(converted).collect::<Vec<_>>()),
        Json::Object(fields) => {
            Value::from(fields.iter().map(|(name, value)| (name.clone(), converted(value))).collect::<HashMap<_, _>>())
        }
    }
}

/// How deep the tree is, and how many nodes it has.
fn depth(expr: &IdedExpr, nodes: &mut usize) -> usize {
    *nodes += 1;
    let mut deepest = 0;
    let mut look = |part: &IdedExpr| deepest = deepest.max(depth(part, nodes));
    match &expr.expr {
        Expr::Comprehension(loops) => {
            let parts = [&loops.iter_range, &loops.accu_init, &loops.loop_cond, &loops.loop_step, &loops.result];
            parts.into_iter().for_each(&mut look);
        }
        expr => parts(expr).into_iter().for_each(&mut look),
    }
    deepest + 1
}

/// Every name is a variable or belongs to a macro around it.
fn check_names<'e>(expr: &'e Expr, names: &mut Vec<&'e str>) -> Result<(), String> {
    match expr {
        Expr::Ident(name) if !names.contains(&name.as_str()) => {
            let known: Vec<_> = names.iter().filter(|name| !name.starts_with('@')).copied().collect();
            Err(format!("there is no {name:?} here, only {}", known.join(", ")))
        }
        Expr::Comprehension(loops) => {
            check_names(&loops.iter_range.expr, names)?;
            check_names(&loops.accu_init.expr, names)?;
            let before = names.len();
            names.extend([loops.iter_var.as_str(), loops.accu_var.as_str()]);
            names.extend(loops.iter_var2.as_deref());
            for part in [&loops.loop_cond, &loops.loop_step, &loops.result] {
                check_names(&part.expr, names)?;
            }
            names.truncate(before);
            Ok(())
        }
        expr => parts(expr).into_iter().try_for_each(|part| check_names(&part.expr, names)),
    }
}

/// What an expression is made of, one level down.
fn parts(expr: &Expr) -> Vec<&IdedExpr> {
    match expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Struct(of) => of.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Comprehension(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => Vec::new(),
    }
}

fn entry_parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

/// `sizes`: of names that macros made; all others are the data, or part of it.
fn bound<'e>(expr: &'e IdedExpr, data: u64, sizes: &mut BTreeMap<&'e str, u64>) -> Bound {
    match &expr.expr {
        Expr::Literal(LiteralValue::String(text)) => Bound { size: text.inner().len() as u64 + 2, work: 1 },
        Expr::Literal(LiteralValue::Bytes(bytes)) => Bound { size: bytes.inner().len() as u64 + 2, work: 1 },
        Expr::Literal(_) | Expr::Unspecified => Bound { size: 8, work: 1 },
        Expr::Ident(name) => Bound { size: sizes.get(name.as_str()).copied().unwrap_or(data), work: 1 },
        Expr::Comprehension(loops) => {
            let range = bound(&loops.iter_range, data, sizes);
            let init = bound(&loops.accu_init, data, sizes);
            let mut body = |element: u64| {
                let names: Vec<_> = [&loops.iter_var].into_iter().chain(&loops.iter_var2).collect();
                let mut before: Vec<_> =
                    names.iter().map(|name| (name.as_str(), sizes.insert(name.as_str(), element))).collect();
                // What is gathered is appended to, never copied.
                before.push((loops.accu_var.as_str(), sizes.insert(loops.accu_var.as_str(), 0)));
                let found = [&loops.loop_cond, &loops.loop_step].map(|part| bound(part, data, sizes));
                for (name, size) in before.into_iter().rev() {
                    match size {
                        Some(size) => sizes.insert(name, size),
                        None => sizes.remove(name),
                    };
                }
                let [cond, step] = found;
                Bound { size: step.size, work: cond.work.saturating_add(step.work).saturating_add(1) }
            };
            // The elements together are as large as the range. What a body costs grows with its element at least in
            // proportion, so one large element among small ones is the worst.
            let (small, large) = (body(1), body(range.size));
            let all = |small: u64, large: u64| range.size.saturating_mul(small).saturating_add(large);
            let size = all(small.size, large.size).saturating_add(init.size);
            sizes.insert(loops.accu_var.as_str(), size);
            let result = bound(&loops.result, data, sizes);
            sizes.remove(loops.accu_var.as_str());
            let work = all(small.work, large.work).saturating_add(range.work).saturating_add(init.work);
            Bound { size: result.size.max(size), work: work.saturating_add(result.work) }
        }
        Expr::Call(call) => {
            let mut size = 8u64;
            let mut work = 1u64;
            for part in call.target.as_deref().into_iter().chain(&call.args) {
                let part = bound(part, data, sizes);
                size = size.saturating_add(part.size);
                work = work.saturating_add(part.work);
            }
            // Whatever the function does, it looks at its arguments once; what it gives is no larger than they are.
            let looks = size / 8;
            Bound { size: if is_flat(&call.func_name) { 8 } else { size }, work: work.saturating_add(looks) }
        }
        other => {
            let mut whole = Bound { size: 8, work: 1 };
            for part in parts(other) {
                let part = bound(part, data, sizes);
                whole.size = whole.size.saturating_add(part.size);
                whole.work = whole.work.saturating_add(part.work);
            }
            whole
        }
    }
}

/// Whether the function gives a number or a truth, however large its arguments are.
fn is_flat(function: &str) -> bool {
    const FLAT: [&str; 19] = [
        "_&&_",
        "_||_",
        "!_",
        "_==_",
        "_!=_",
        "_<_",
        "_<=_",
        "_>_",
        "_>=_",
        "@in",
        "_-_",
        "_*_",
        "_/_",
        "_%_",
        "-_",
        "size",
        "contains",
        "startsWith",
        "endsWith",
    ];
    FLAT.contains(&function) || function.starts_with("@not")
}

fn short(text: &str) -> String {
    crate::text::truncate(text.lines().next().unwrap_or_default(), ERROR_BYTES_MAX).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn holds(text: &str, data: &serde_json::Value) -> Result<bool, String> {
        Expression::compile(text, &["data"])?.holds(&[("data", data)], data.to_string().len())
    }

    #[test]
    fn expressions_say_what_they_say() {
        let data = json!({ "level": 5, "tags": ["hot", "wet"], "rooms": [{ "t": 21.5 }, { "t": 30 }], "ok": true });
        for (text, expected) in [
            ("data.level > 3 && 'hot' in data.tags", true),
            ("data.level == 5.0", true),
            ("data.level + 1 == 6 && data.rooms[0].t * 2.0 == 43.0", true),
            ("data.rooms.exists(room, room.t >= 30.0)", true),
            ("data.rooms.all(room, room.t > 25.0)", false),
            ("size(data.tags) == 2 && data.tags[0].startsWith('h')", true),
            ("has(data.missing) ? data.missing > 1 : data.ok", true),
            ("data.rooms.filter(room, room.t > 25.0).size() == 1", true),
        ] {
            assert_eq!(holds(text, &data), Ok(expected), "{text}");
        }
    }

    #[test]
    fn every_refusal_says_what_is_wrong() {
        let long = format!("'{}' == data", "a".repeat(EXPRESSION_BYTES_MAX));
        let deep = format!("{}1{} == []", "[".repeat(50), "]".repeat(50));
        let chain = format!("1{} == 2", "+1".repeat(400));
        for (text, expected) in [
            ("", "the expression is empty"),
            ("data.level >", "not an expression, at character"),
            ("value > 3", "there is no \"value\" here, only data"),
            ("data.map(x, data.map(y, data.map(z, x + y + z))) == []", "it could take"),
            (&long, "bytes, more than the"),
            (&deep, "nested deeper than"),
            (&chain, "nested deeper than"),
        ] {
            let found = Expression::compile(text, &["data"]).map(drop).unwrap_err();
            assert!(found.contains(expected), "{text:.40}: {found}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_an_error_and_not_a_no() {
        let data = json!({ "level": 5 });
        for (text, expected) in [
            ("data.missing > 3", "missing"),
            ("data.level", "neither true nor false"),
            ("data.level + 9223372036854775807 > 0", "verflow"),
            ("data.level / 0 == 1", "zero"),
            ("nothing(data)", "nothing"),
            ("data.level > 'a'", ""),
        ] {
            let found = holds(text, &data).unwrap_err();
            assert!(found.contains(expected), "{text}: {found}");
        }
    }

    /// Goal: what would take long is refused by its size, whatever the machine. Method: macros that multiply, on as
    /// much data as may come.
    #[test]
    fn an_expression_that_multiplies_is_not_begun() {
        let numbers: Vec<_> = (0..5_000).collect();
        let data = json!(numbers);
        assert_eq!(holds("data.exists(x, x == 4999)", &data), Ok(true), "once through is cheap");
        for text in ["data.exists(x, data.exists(y, x + y == -1))", "size(data.map(x, data + data)) == 0"] {
            assert!(holds(text, &data).unwrap_err().contains("it could take"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}", pieces in prop::collection::vec(
            prop::sample::select(vec![
                "data", ".", "(", ")", "[", "]", "{", "}", "x", "map", "all", "1", "+", "-", "!", "'", "\"", "?", ":",
                ",", "&&", "in", " ", "0x", "u", "\\", "\u{1F980}", "has", ">", "=", "e9", "b\"",
            ]),
            0..60,
        )) {
            for text in [text, pieces.concat()] {
                let _ = holds(&text, &json!({ "a": [1, 2] }));
            }
        }
    }

    /// Goal: whatever is accepted can be evaluated on the stack of an ordinary thread. Method: every way to go deep, up
    /// to where it is refused and far beyond.
    #[test]
    fn the_deepest_that_is_allowed_fits_the_stack() {
        let forms = [
            ("(", "true", ")"),
            ("[", "1", "]"),
            ("!(", "true", ")"),
            ("-(", "1", ")"),
            ("{1:", "1", "}"),
            ("data", ".a", ""),
            ("data", "[0]", ""),
            ("1", "+1", ""),
            ("", "!", "true"),
            ("true", "&&true", ""),
            ("1", "==1", ""),
            ("true", "?true:true", ""),
            ("[1].exists(x, ", "true", ")"),
        ];
        for (open, middle, close) in forms {
            for times in (1..=EXPRESSION_DEPTH_MAX + 2).chain([60, 70, 200]) {
                let wraps = format!("{}{middle}{}", open.repeat(times), close.repeat(times));
                let chain = format!("{open}{}{close}", middle.repeat(times));
                for text in [wraps, chain] {
                    let _ = holds(&text, &json!([[1]]));
                }
            }
        }
    }
}
