//! The cause of a fire, as a task finds it: the JSON file `trigger.json` among its inputs.
//!
//! ```json
//! {"job": "<definition>", "cause": "instant", "instant_at": 1798790400000}
//! ```
//!
//! With cause *event*: `event` has `name`, `id`, `from`, `emitted_at` and `data`. *condition*: `value` is what was
//! seen.
//! *manual*: `by` is the peer that asked. *after*: `ended` lists the jobs with their run, state and time.
//!
//! It is written while an entry is applied, so it is put together from its parts: JSON that came from outside was read
//! by the primary and is copied here as it is, for writing it anew could differ between builds.

use bytes::Bytes;

use super::event::Event;
use super::record::Ended;
use crate::ids::{JobId, Millis, PeerId};

/// The values of one fire.
pub enum Values<'a> {
    Instant(Millis),
    Event { event: &'a Event, from: PeerId },
    Condition { value: &'a str },
    Manual { by: PeerId },
    After { ended: Vec<(JobId, Ended)> },
}

pub fn render(job: JobId, values: &Values<'_>) -> Bytes {
    let rest = match values {
        Values::Instant(instant) => format!(r#""cause":"instant","instant_at":{}"#, instant.0),
        Values::Event { event, from } => {
            let id = event.id.as_deref().map_or_else(|| "null".to_owned(), quoted);
            let (name, data) = (quoted(&event.name), String::from_utf8_lossy(&event.data));
            let at = event.at.0;
            format!(
                r#""cause":"event","event":{{"name":{name},"id":{id},"from":"{from}","emitted_at":{at},"data":{data}}}"#
            )
        }
        Values::Condition { value } => format!(r#""cause":"condition","value":{value}"#),
        Values::Manual { by } => format!(r#""cause":"manual","by":"{by}""#),
        Values::After { ended } => {
            let row = |(job, Ended { run, state, at }): &(JobId, Ended)| {
                format!(r#"{{"job":"{job}","run":"{run}","state":"{state}","ended_at":{}}}"#, at.0)
            };
            let rows: Vec<_> = ended.iter().map(row).collect();
            format!(r#""cause":"after","ended":[{}]"#, rows.join(","))
        }
    };
    Bytes::from(format!(r#"{{"job":"{job}",{rest}}}"#))
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for symbol in text.chars() {
        match symbol {
            '"' | '\\' => quoted.extend(['\\', symbol]),
            symbol if symbol.is_control() => quoted.push_str(&format!("\\u{:04x}", symbol as u32)),
            symbol => quoted.push(symbol),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::QuorumId;
    use crate::run_state::RunState;
    use serde_json::Value;

    #[test]
    fn whatever_fired_it_the_input_is_json() {
        let job = JobId { quorum: QuorumId([1; 16]), local: [2; 16] };
        let event = Event {
            name: "door.open".to_owned(),
            id: Some("a\"b\\c\n\u{7}\u{9f}\u{1F980}".to_owned()),
            data: Bytes::from_static(br#"{"big": 123456789012345678901234567890, "deep": [1e400]}"#),
            at: Millis(5),
        };
        let ended = Ended { run: job, state: RunState::Succeeded, at: Millis(9) };
        for values in [
            Values::Instant(Millis(1_798_790_400_000)),
            Values::Event { event: &event, from: PeerId([3; 32]) },
            Values::Condition { value: "[1.50]" },
            Values::Manual { by: PeerId([3; 32]) },
            Values::After { ended: vec![(job, ended), (job, ended)] },
        ] {
            let text = render(job, &values);
            assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok(), "{text:?}");
        }
        let read = |values| serde_json::from_slice::<Value>(&render(job, &values)).unwrap();
        let small = Event { data: Bytes::from_static(b"[7]"), ..event.clone() };
        let shown = read(Values::Event { event: &small, from: PeerId([3; 32]) });
        assert_eq!(shown["event"]["id"].as_str(), event.id.as_deref());
        assert_eq!(shown["event"]["data"][0], 7);
        assert_eq!(read(Values::Instant(Millis(7)))["instant_at"], 7);
        assert_eq!(read(Values::After { ended: vec![(job, ended)] })["ended"][0]["state"], "succeeded");
    }
}
