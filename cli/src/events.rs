//! `events`: follows a node's event stream until Ctrl-C, or until nobody reads it.

use std::collections::BTreeSet;

use futures::StreamExt;
use quorate_api::EventInfo;
use quorate_testnet::ClientError;

use super::args::Common;
use super::failure::Failure;
use super::find::client_of;
use super::ids::Ids;
use super::output::{instant, print, print_json_text, print_to_stderr, word};

/// Longest line of a stream that is read: far above any event.
const LINE_BYTES_MAX: usize = 1024 * 1024;

pub async fn run(common: &Common) -> Result<(), Failure> {
    let client = client_of(common)?;
    let response = client.send(client.request(reqwest::Method::GET, "/v1/events")).await?;
    let mut chunks = response.bytes_stream();
    let mut lines = Lines::default();
    let (mut ids, mut asked) = (Ids::new(common), BTreeSet::new());
    loop {
        let chunk = tokio::select! {
            chunk = chunks.next() => chunk,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(chunk) = chunk else {
            return Err(Failure::no_node("the node closed the stream").hint("it may have been stopped; start it again"));
        };
        let chunk = chunk.map_err(|error| ClientError::Transfer { reason: quorate_protocols::text::chain(&error) })?;
        for line in lines.take_lines(&chunk)? {
            let Some(data) = line.strip_prefix("data:") else { continue };
            let data = data.trim();
            if common.json {
                print_json_text(data)?;
                continue;
            }
            match serde_json::from_str::<EventInfo>(data) {
                Ok(event) => {
                    // One that joined since has a name too; one that has none is asked about once.
                    if ids.lacks_name_in(&event.message) && asked.insert(event.peer) {
                        ids = Ids::ask(common, &client).await;
                    }
                    let message = ids.sentence(&event.message);
                    print(format!("{} {:18} {message}", instant(event.seen_at), word(&event.event)))?;
                }
                Err(error) => print_to_stderr(format!("warning: an event cannot be read: {error}")),
            }
        }
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn take_lines(&mut self, chunk: &[u8]) -> Result<Vec<String>, Failure> {
        self.0.extend_from_slice(chunk);
        let mut lines = Vec::new();
        while let Some(end) = self.0.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        match self.0.len() > LINE_BYTES_MAX {
            true => Err(Failure::failed("the node's event stream makes no sense: a line without an end")),
            false => Ok(lines),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_the_bytes_arrive() {
        let mut lines = Lines::default();
        assert_eq!(lines.take_lines(b"data: a\n\nda").unwrap(), ["data: a", ""]);
        assert_eq!(lines.take_lines(b"ta: b").unwrap(), Vec::<String>::new());
        assert_eq!(lines.take_lines(b"\r\n").unwrap(), ["data: b"]);
        assert!(lines.take_lines(&vec![b'x'; LINE_BYTES_MAX + 1]).is_err());
    }
}
