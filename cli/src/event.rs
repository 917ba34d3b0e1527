//! `event emit`: an event for jobs that wait for it.

use quorate_api::{EmitInfo, EmitRequest};
use quorate_protocols::trigger::limits::EVENT_DATA_BYTES_MAX;

use super::args::{Common, EventCommand};
use super::failure::Failure;
use super::find::client_of;
use super::output::{print, print_json};

pub async fn run(common: &Common, command: EventCommand) -> Result<(), Failure> {
    let EventCommand::Emit { name, data, id } = command;
    if data.len() > EVENT_DATA_BYTES_MAX {
        let bytes = data.len();
        return Err(Failure::usage(format!(
            "data: {bytes} bytes of JSON, more than the {EVENT_DATA_BYTES_MAX} allowed"
        ))
        .hint("store what is larger as an object, and give its reference"));
    }
    let data = serde_json::from_str(&data).map_err(|error| {
        Failure::usage(format!("data: not JSON: {error}")).hint("texts need quotes of their own: --data '\"open\"'")
    })?;
    let request = EmitRequest { name, id, data };
    let info: EmitInfo = client_of(common)?.post("/v1/events", &request).await?;
    if common.json {
        return print_json(&info);
    }
    let EmitInfo { sequence, existed } = info;
    print(match existed {
        true => format!("event {sequence}: emitted before, under this id"),
        false => format!("event {sequence}"),
    })
}
