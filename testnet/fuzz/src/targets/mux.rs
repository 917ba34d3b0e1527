//! Streams that questions share: hostile bytes are refused or read, in bounded memory and however they are cut, and no
//! message is told of beyond what it announced.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_protocols::mux::{Event, Fault, Lengths, Outbox, Parser, Side};

use super::Target;
use crate::meter::metered;
use crate::trail::Trail;

const LARGEST: Lengths = Lengths { head: 40_000, payload: 40_000 };

/// Streams as they are written, behind the three bytes that say how they are read.
pub fn target() -> Target {
    let mut asked = vec![0, 7, 3];
    let mut outbox = Outbox::default();
    outbox.ask(1, 500, Bytes::from(vec![1; 20_000]), Bytes::from(vec![2; 300]));
    outbox.ask(2, 500, Bytes::from_static(b"small"), Bytes::new());
    outbox.ask(3, 0, Bytes::new(), Bytes::new());
    outbox.cancel(2);
    outbox.fill(&mut asked, usize::MAX, |_| ());
    let mut served = vec![1, 255, 255];
    let mut outbox = Outbox::default();
    outbox.answer(1, Bytes::from_static(b"head"), Bytes::from(vec![2; 18_000]));
    outbox.refuse(2);
    outbox.fill(&mut served, usize::MAX, |_| ());
    Target::bytes("mux", run).with_seeds([asked, served])
}

/// What a stream said, with the bytes of each message joined.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    marks: Vec<(u8, u64, usize)>,
    bytes: BTreeMap<u64, Vec<u8>>,
    fault: Option<Fault>,
}

/// Forgets each message whose id leaves no rest.
fn read(writer: Side, stream: &[u8], cut: usize, forget: u64) -> Told {
    let (mut parser, mut told) = (Parser::new(writer, LARGEST), Told::default());
    // Bytes that each message that is told of still lacks.
    let mut lacking: BTreeMap<u64, usize> = BTreeMap::new();
    for mut piece in stream.chunks(cut.max(1)) {
        loop {
            let event = match parser.next(&mut piece) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(fault) => {
                    told.fault = Some(fault);
                    return told;
                }
            };
            match event {
                Event::Question { id, lengths, .. } | Event::Answer { id, lengths } => {
                    assert_eq!(matches!(event, Event::Question { .. }), writer == Side::Asking);
                    assert!(lengths.head <= LARGEST.head && lengths.payload <= LARGEST.payload);
                    told.marks.push((0, id, lengths.total()));
                    assert!(lacking.insert(id, lengths.total()).is_none(), "it began twice");
                    told.bytes.remove(&id);
                    if id % forget == 0 {
                        lacking.remove(&id);
                        parser.forget(id);
                    }
                }
                Event::Bytes { id, bytes } => {
                    let lacking = lacking.get_mut(&id).expect("it has begun and is not forgotten");
                    assert!(!bytes.is_empty());
                    *lacking = lacking.checked_sub(bytes.len()).expect("no more than it announced");
                    told.bytes.entry(id).or_default().extend_from_slice(bytes);
                }
                Event::Complete { id } => {
                    assert_eq!(lacking.remove(&id), Some(0), "it is complete when it is told to be");
                    told.marks.push((1, id, 0));
                }
                Event::Busy { id } => told.marks.push((2, id, 0)),
                Event::Cancel { id } => told.marks.push((3, id, 0)),
            }
        }
        assert!(piece.is_empty(), "all bytes are used up");
    }
    told
}

fn run(bytes: &[u8]) -> Trail {
    let mut trail = Trail::default();
    let [side, cut, forget, stream @ ..] = bytes else { return trail };
    let writer = if side % 2 == 0 { Side::Asking } else { Side::Serving };
    let forget = u64::from(*forget).max(2);
    let told = metered(bytes.len(), || read(writer, stream, usize::MAX, forget));
    assert_eq!(read(writer, stream, usize::from(*cut), forget), told, "it depends on how the stream is cut");
    for (kind, id, total) in &told.marks {
        trail.mark((kind, id.min(&8), total.checked_ilog2()));
    }
    if let Some(fault) = &told.fault {
        trail.mark_variant("fault", fault);
    }
    trail
}
