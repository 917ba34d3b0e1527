//! The API's port, held by connections that say nothing or half of something.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::arena::{Arena, Fault};

const CONNECTIONS: usize = 2_000;

/// A request with the token is answered within this all the while.
const ANSWERED_MAX: Duration = Duration::from_secs(1);

/// How long the attack holds on.
const HELD: Duration = Duration::from_secs(15);

/// Descriptors beyond those before the attack, a while after it.
const DESCRIPTORS_MAX: usize = 32;
const CLOSED_MAX: Duration = Duration::from_secs(10);

/// Each connection says the next of these: nothing, half a head, a head without its body, a body that never ends.
const BEGINNINGS: [&str; 4] = [
    "",
    "GET /v1/node HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ",
    "POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 999999999999\r\n\r\n",
    "POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{",
];

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Two thousand connections without a token to one node; with the token it answers all the while, and descriptors come
/// back.
pub async fn hold_connections(arena: &mut Arena) -> Result<(), Fault> {
    let pid = arena.pid(1).ok_or("node 1 has ended")?;
    let before = descriptors(pid);
    let address = std::fs::read_to_string(arena.testnet.node_dir(1).join("api.addr"))?;
    let mut held = Vec::new();
    for number in 0..CONNECTIONS {
        // A refused connection is a defence as well.
        if let Ok(mut stream) = TcpStream::connect(address.trim()).await {
            let _ = stream.write_all(BEGINNINGS[number % BEGINNINGS.len()].as_bytes()).await;
            held.push(stream);
        }
    }
    arena.note_text(format!("{} connections were made, {} descriptors are open", held.len(), descriptors(pid)));
    let api = arena.api(1)?;
    let (began, mut slowest, mut unanswered) = (Instant::now(), Duration::ZERO, 0);
    while began.elapsed() < HELD {
        let asked = Instant::now();
        // A client of its own each time: the ones that came before the attack must not be the only ones.
        let client = quorate_testnet::Client::of_data_dir(&arena.testnet.node_dir(1))?;
        for client in [&api, &client] {
            let answered = tokio::time::timeout(5 * ANSWERED_MAX, client.get::<serde_json::Value>("/v1/node")).await;
            unanswered += usize::from(!matches!(answered, Ok(Ok(_))));
            slowest = slowest.max(asked.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    arena.require(unanswered == 0, || format!("{unanswered} requests with the token were not answered"));
    arena.require(slowest <= ANSWERED_MAX, || format!("a request with the token took {slowest:?}"));
    drop(held);
    let back =
        Arena::wait(CLOSED_MAX, || std::future::ready((descriptors(pid) <= before + DESCRIPTORS_MAX).then_some(())));
    let back = back.await;
    arena.require(back.is_some(), || format!("{} descriptors are open, before {before}", descriptors(pid)));
    Ok(())
}
