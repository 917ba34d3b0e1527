//! The check of a batch specification: every bound, and for each the key and what is accepted.

use crate::capacity::Requirement;
use crate::task::error_class::ErrorClass;
use crate::trigger::limits::INPUT_NAME;
use std::time::Duration;

use super::*;
use crate::fault::{Checked, ensure, lasting, within};
use crate::job::limits::READERS_MAX;
use crate::object::limits::NAME_BYTES_MAX;
use crate::task::limits::*;

impl BatchSpec {
    /// The first thing that is wrong. What passes obeys every limit of [`crate::task::limits`].
    pub fn check(&self) -> Checked {
        let name = self.name.as_deref().unwrap_or_default().len();
        ensure(name <= NAME_BYTES_MAX, "name", || format!("{name} bytes, more than the {NAME_BYTES_MAX} allowed"))?;
        self.call.check("")?;
        self.check_map()?;
        if let Some(reduce) = &self.reduce {
            reduce.call.check("reduce.")?;
            within("reduce.fan_in", reduce.fan_in, 2, FAN_IN_MAX)?;
            ensure(!matches!(self.map, Map::Single), "reduce", || {
                "there is nothing to fold: the job has a single task".to_owned()
            })?;
        }
        if let Some(compensate) = &self.compensate {
            compensate.check("compensate.")?;
        }
        let engine = self.engine();
        ensure(self.calls().all(|call| call.program.engine() == engine), "program", || {
            format!("every step of a job has one engine, and the first has {engine}")
        })?;
        ensure(self.on_failure != OnFailure::Revert || self.compensate.is_some(), "on_failure", || {
            "to revert, say how in [compensate]".to_owned()
        })?;
        let readers = self.readers.len();
        ensure(readers <= READERS_MAX, "readers", || format!("{readers} peers, more than the {READERS_MAX} allowed"))?;
        self.resources.check()?;
        within("priority", self.priority, PRIORITY_MIN, PRIORITY_MAX)?;
        within("parallelism", self.parallelism, 0, TASKS_PER_STEP_MAX)?;
        self.retry.check()?;
        lasting("timeouts.task", self.timeouts.task, TIMEOUT_MIN, TIMEOUT_MAX)?;
        lasting("timeouts.run", self.timeouts.run, TIMEOUT_MIN, TIMEOUT_MAX)?;
        if let Some(step) = self.timeouts.step {
            lasting("timeouts.step", step, TIMEOUT_MIN, TIMEOUT_MAX)?;
        }
        self.check_verify()?;
        if let Some(Stragglers { slower_percent, done_percent }) = self.stragglers {
            within("stragglers.slower_percent", slower_percent, 110, 10_000)?;
            within("stragglers.done_percent", done_percent, 1, 99)?;
            ensure(self.idempotent, "stragglers", || "a task that is not idempotent must not run twice".to_owned())?;
        }
        Ok(())
    }

    fn check_map(&self) -> Checked {
        let tasks = match &self.map {
            Map::Single => 1,
            Map::Count(count) => *count as u64,
            Map::Items(items) => items.len() as u64,
            Map::Segments { size, bytes, .. } => {
                within("map.bytes", *bytes, MAP_BYTES_MIN, MAP_BYTES_MAX)?;
                size.div_ceil(*bytes)
            }
        };
        within("map", tasks, 1, TASKS_PER_STEP_MAX as u64)
    }

    fn check_verify(&self) -> Checked {
        let Some(Verify { copies, agree }) = self.verify else { return Ok(()) };
        within("verify.copies", copies, 2, COPIES_MAX)?;
        // Two camps must never both win.
        within("verify.agree", agree, copies / 2 + 1, copies)?;
        ensure(self.idempotent, "verify", || "a task that is not idempotent must not run twice".to_owned())?;
        ensure(self.stragglers.is_none(), "stragglers", || "verified tasks run in copies already".to_owned())?;
        let deterministic =
            |call: &Call| matches!(call.program, Program::Wasm { deterministic: true, .. } | Program::Command { .. });
        ensure(self.calls().all(deterministic), "deterministic", || {
            "copies can agree only when equal inputs give equal outputs: set fuel and deterministic = true".to_owned()
        })
    }
}

impl Call {
    fn check(&self, at: &str) -> Checked {
        match &self.program {
            Program::Wasm { module, fuel, deterministic } => {
                module.check(&format!("{at}module"), MODULE_BYTES_MAX)?;
                ensure(module.size() > 0, format!("{at}module"), || "the module is empty".to_owned())?;
                ensure(*fuel != Some(0), format!("{at}fuel"), || {
                    "no fuel, no step: leave it out or raise it".to_owned()
                })?;
                ensure(!deterministic || fuel.is_some(), format!("{at}deterministic"), || {
                    "its end must be the same everywhere, and a deadline is not: set fuel too".to_owned()
                })?;
            }
            Program::Command { name } => ensure(is_plain(name), format!("{at}program"), || {
                format!(
                    "{name:?} is not the name of an allowed program: 1 to {PLAIN_NAME_BYTES_MAX} letters, digits, '-', '_' and '.'"
                )
            })?,
        }
        let args = self.args.iter().map(String::len).sum::<usize>();
        let texts = args + self.env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        ensure(texts <= TEXT_BYTES_MAX, format!("{at}args"), || {
            format!("arguments and environment are {texts} bytes, more than the {TEXT_BYTES_MAX} allowed")
        })?;
        ensure(self.args.len() <= ARGS_MAX, format!("{at}args"), || {
            format!("{} arguments, more than the {ARGS_MAX} allowed", self.args.len())
        })?;
        ensure(self.env.len() <= ARGS_MAX, format!("{at}env"), || {
            format!("{} variables, more than the {ARGS_MAX} allowed", self.env.len())
        })?;
        let nul = self.args.iter().chain(self.env.keys()).chain(self.env.values()).any(|text| text.contains('\0'));
        ensure(!nul, format!("{at}args"), || "arguments and environment must not contain a NUL byte".to_owned())?;
        let named = self.env.keys().find(|name| name.is_empty() || name.contains('='));
        ensure(named.is_none(), format!("{at}env"), || "a variable's name is empty or contains '='".to_owned())?;
        ensure(self.inputs.len() <= INPUTS_MAX, format!("{at}inputs"), || {
            format!("{} inputs, more than the {INPUTS_MAX} allowed", self.inputs.len())
        })?;
        for (name, content) in &self.inputs {
            let key = format!("{at}inputs.{name}");
            // The names become files in the task's folder: one that climbs out of it is no name.
            ensure(is_plain(name) && !name.starts_with('.'), key.clone(), || {
                format!(
                    "an input's name has 1 to {PLAIN_NAME_BYTES_MAX} letters, digits, '-', '_' and '.', and no '.' in front"
                )
            })?;
            content.check(&key, u64::MAX)?;
        }
        Ok(())
    }
}

fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= PLAIN_NAME_BYTES_MAX && name.bytes().all(plain)
}

impl Content {
    fn check(&self, key: &str, max: u64) -> Checked {
        let size = self.size();
        ensure(size <= max, key, || format!("{size} bytes, more than the {max} allowed"))
    }
}

impl Requirement {
    /// Also asked when a running job is given other resources.
    pub(crate) fn check(&self) -> Checked {
        within("resources.memory", self.capacity.memory_bytes, MEMORY_BYTES_MIN, MEMORY_BYTES_MAX)?;
        within("resources.disk", self.capacity.disk_bytes, 0, DISK_BYTES_MAX)?;
        within("resources.slots", self.capacity.slots, 1, SLOTS_PER_TASK_MAX)?;
        ensure(self.labels.len() <= LABELS_MAX, "resources.labels", || {
            format!("{} labels, more than the {LABELS_MAX} allowed", self.labels.len())
        })?;
        let long = self.labels.iter().any(|(name, value)| name.len().max(value.len()) > PLAIN_NAME_BYTES_MAX);
        ensure(!long, "resources.labels", || format!("a label is longer than {PLAIN_NAME_BYTES_MAX} bytes"))
    }
}

impl RetryPolicy {
    fn check(&self) -> Checked {
        within("retry.attempts", self.attempts, 1, ATTEMPTS_MAX)?;
        lasting("retry.base", self.base, Duration::from_millis(1), TIMEOUT_MAX)?;
        lasting("retry.cap", self.cap, self.base, TIMEOUT_MAX)?;
        within("retry.jitter_percent", self.jitter_percent, 0, 100)?;
        if let Some(deadline) = self.deadline {
            lasting("retry.deadline", deadline, TIMEOUT_MIN, TIMEOUT_MAX)?;
        }
        ensure(self.on.len() <= ErrorClass::ALL.len(), "retry.on", || "an error is named twice".to_owned())
    }
}

impl BatchSpec {
    /// Whether a trigger may run it, beside what [`BatchSpec::check`] says: it is given one input more.
    pub fn check_triggered(&self) -> Checked {
        for call in self.calls() {
            ensure(!call.inputs.contains_key(INPUT_NAME), format!("inputs.{INPUT_NAME}"), || {
                "a job with a trigger is given what fired it under this name".to_owned()
            })?;
            ensure(call.inputs.len() < INPUTS_MAX, "inputs", || {
                format!("{} inputs, and what fired it is one more: {INPUTS_MAX} are allowed", call.inputs.len())
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ManifestHash, QuorumId};
    use bytes::Bytes;

    fn wasm() -> BatchSpec {
        let module = Content::Inline(Bytes::from_static(b"\0asm"));
        BatchSpec::new(Call::new(Program::Wasm { module, fuel: Some(1_000_000), deterministic: true }))
    }

    fn refused(spec: BatchSpec) -> String {
        spec.check().unwrap_err().to_string()
    }

    #[test]
    fn a_specification_with_every_default_is_sound() {
        assert_eq!(wasm().check(), Ok(()));
        assert_eq!(BatchSpec::new(Call::new(Program::Command { name: "ffmpeg".into() })).check(), Ok(()));
    }

    #[test]
    fn every_refusal_names_the_key_and_what_is_accepted() {
        let object = ObjectId { quorum: QuorumId([1; 16]), manifest: ManifestHash([2; 32]) };
        let segments = |size, bytes| Map::Segments { object, size, bytes, split: Split::Exact };
        let cases: Vec<(&str, BatchSpec)> = vec![
            ("priority: 0 is not between 1 and 100", BatchSpec { priority: 0, ..wasm() }),
            ("map: 0 is not between 1", BatchSpec { map: Map::Items(Vec::new()), ..wasm() }),
            ("map: 0 is not between 1", BatchSpec { map: segments(0, 1 << 20), ..wasm() }),
            ("map: 70000 is not between 1", BatchSpec { map: Map::Count(70_000), ..wasm() }),
            ("map.bytes: 5 is not between", BatchSpec { map: segments(100, 5), ..wasm() }),
            ("on_failure: to revert", BatchSpec { on_failure: OnFailure::Revert, ..wasm() }),
            (
                "reduce: there is nothing",
                BatchSpec { reduce: Some(Box::new(Reduce { call: wasm().call, fan_in: 2 })), ..wasm() },
            ),
            (
                "verify.agree: 2 is not between 3 and 4",
                BatchSpec { verify: Some(Verify { copies: 4, agree: 2 }), ..wasm() },
            ),
            ("retry.attempts: 0 is not", BatchSpec { retry: RetryPolicy { attempts: 0, ..wasm().retry }, ..wasm() }),
            ("retry.cap: 1ms is not between 1s", {
                BatchSpec { retry: RetryPolicy { cap: Duration::from_millis(1), ..wasm().retry }, ..wasm() }
            }),
            ("timeouts.run: 0ns is not", {
                BatchSpec { timeouts: Timeouts { run: Duration::ZERO, ..wasm().timeouts }, ..wasm() }
            }),
            ("verify: a task that is not idempotent", {
                BatchSpec { verify: Some(Verify { copies: 3, agree: 2 }), idempotent: false, ..wasm() }
            }),
            ("inputs.../etc", {
                let mut spec = wasm();
                spec.call.inputs.insert("../etc".into(), Content::Inline(Bytes::new()));
                spec
            }),
            ("program: every step of a job has one engine", {
                let command = Call::new(Program::Command { name: "sh".into() });
                BatchSpec { compensate: Some(Box::new(command)), ..wasm() }
            }),
            ("program: \"../sh\" is not", BatchSpec::new(Call::new(Program::Command { name: "../sh".into() }))),
        ];
        for (expected, spec) in cases {
            let found = refused(spec);
            assert!(found.starts_with(expected), "{found:?} does not begin with {expected:?}");
        }
    }

    #[test]
    fn a_deterministic_module_without_fuel_is_refused() {
        let mut spec = wasm();
        let Program::Wasm { fuel, .. } = &mut spec.call.program else { unreachable!("wasm() is a module") };
        *fuel = None;
        assert!(refused(spec.clone()).starts_with("deterministic: its end must be the same"));
        let step = BatchSpec { compensate: Some(Box::new(spec.call)), ..wasm() };
        assert!(refused(step).starts_with("compensate.deterministic: its end must be the same"));
    }

    #[test]
    fn copies_of_a_module_that_is_not_deterministic_are_refused() {
        let mut spec = BatchSpec { verify: Some(Verify { copies: 3, agree: 2 }), ..wasm() };
        assert_eq!(spec.check(), Ok(()));
        if let Program::Wasm { deterministic, .. } = &mut spec.call.program {
            *deterministic = false;
        }
        assert!(refused(spec).starts_with("deterministic: copies can agree only"));
    }
}
