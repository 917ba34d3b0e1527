//! Streams of the two sides: what one writes the other reads, however it is cut, and what is not in order is refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const LARGEST: Lengths = Lengths { head: 100_000, payload: 200_000 };

fn parser(writer: Side) -> Parser {
    Parser::new(writer, LARGEST)
}

/// The bytes that a whole outbox makes.
fn written(outbox: &mut Outbox) -> Vec<u8> {
    let mut out = Vec::new();
    outbox.fill(&mut out, usize::MAX, |_| ());
    assert!(outbox.is_empty());
    out
}

/// What a parser made of bytes: messages that are complete, with head and payload, in the order of their ends.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    complete: Vec<(u64, Vec<u8>, Vec<u8>)>,
    patience: BTreeMap<u64, u32>,
    busy: Vec<u64>,
    cancelled: Vec<u64>,
}

fn read(parser: &mut Parser, pieces: &[&[u8]]) -> Result<Read, Fault> {
    let (mut read, mut open) = (Read::default(), BTreeMap::<u64, (Lengths, Vec<u8>)>::new());
    for piece in pieces {
        let mut input = *piece;
        while let Some(event) = parser.next(&mut input)? {
            match event {
                Event::Question { id, patience_ms, lengths } => {
                    read.patience.insert(id, patience_ms);
                    open.insert(id, (lengths, Vec::new()));
                }
                Event::Answer { id, lengths } => drop(open.insert(id, (lengths, Vec::new()))),
                Event::Bytes { id, bytes } => open.get_mut(&id).expect("it has begun").1.extend_from_slice(bytes),
                Event::Complete { id } => {
                    let (lengths, mut bytes) = open.remove(&id).expect("it has begun");
                    assert_eq!(bytes.len(), lengths.total());
                    let payload = bytes.split_off(lengths.head);
                    read.complete.push((id, bytes, payload));
                }
                Event::Busy { id } => read.busy.push(id),
                Event::Cancel { id } => read.cancelled.push(id),
            }
        }
        assert!(input.is_empty());
    }
    Ok(read)
}

#[test]
fn a_question_has_the_bytes_that_the_description_says() {
    let mut outbox = Outbox::default();
    outbox.ask(0x0102, 700, Bytes::from_static(b"head"), Bytes::from_static(b"pay"));
    let bytes = written(&mut outbox);
    let wanted: [&[u8]; 6] =
        [&[0], &[2, 1, 0, 0, 0, 0, 0, 0], &[19, 0, 0, 0], &[0xbc, 2, 0, 0], &[4, 0, 0, 0, 3, 0, 0, 0], b"headpay"];
    assert_eq!(bytes, wanted.concat());
    let mut outbox = Outbox::default();
    outbox.answer(7, Bytes::from_static(b"h"), Bytes::new());
    outbox.refuse(8);
    let wanted: [&[u8]; 6] = [
        &[3, 8, 0, 0, 0, 0, 0, 0, 0],
        &[0; 4],
        &[1, 7, 0, 0, 0, 0, 0, 0, 0],
        &[9, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0, 0],
        b"h",
    ];
    assert_eq!(written(&mut outbox), wanted.concat());
}

#[test]
fn a_large_message_does_not_hold_up_a_small_one() {
    let mut outbox = Outbox::default();
    outbox.ask(1, 0, Bytes::from(vec![1; 90_000]), Bytes::from(vec![2; 150_000]));
    outbox.ask(2, 0, Bytes::from_static(b"small"), Bytes::new());
    let read = read(&mut parser(Side::Asking), &[&written(&mut outbox)]).unwrap();
    let order: Vec<u64> = read.complete.iter().map(|(id, ..)| *id).collect();
    assert_eq!(order, [2, 1]);
    // One part of the large one went before it, and no more.
    let mut outbox = Outbox::default();
    outbox.ask(1, 0, Bytes::from(vec![1; 90_000]), Bytes::new());
    outbox.ask(2, 0, Bytes::from_static(b"small"), Bytes::new());
    let (mut out, mut sent) = (Vec::new(), Vec::new());
    outbox.fill(&mut out, PART_BYTES_MAX + 1_000, |id| sent.push(id));
    assert_eq!(sent, [2]);
    assert!(out.len() <= 2 * PART_BYTES_MAX + 1_000 + HEADER_BYTES + QUESTION_BYTES);
}

#[test]
fn small_messages_keep_the_order_in_which_they_came() {
    let mut outbox = Outbox::default();
    (0..500).for_each(|id| outbox.ask(id, 9, Bytes::from(vec![id as u8; 40]), Bytes::new()));
    let (mut out, mut sent) = (Vec::new(), Vec::new());
    outbox.fill(&mut out, usize::MAX, |id| sent.push(id));
    assert!(sent.iter().copied().eq(0..500));
    let read = read(&mut parser(Side::Asking), &[&out]).unwrap();
    assert!(read.complete.iter().map(|(id, ..)| *id).eq(0..500));
}

#[test]
fn what_is_removed_or_forgotten_stops_and_harms_no_other() {
    let mut outbox = Outbox::default();
    outbox.ask(1, 0, Bytes::from(vec![1; 90_000]), Bytes::new());
    let mut out = Vec::new();
    outbox.fill(&mut out, 1, |_| ());
    outbox.ask(2, 0, Bytes::from_static(b"unsent"), Bytes::new());
    outbox.ask(3, 0, Bytes::from_static(b"other"), Bytes::new());
    assert!(outbox.remove(2), "nothing of it was written");
    assert!(!outbox.remove(1), "it has begun");
    assert!(!outbox.remove(9), "it has been written, or never was");
    outbox.cancel(1);
    out.extend(written(&mut outbox));
    let read = read(&mut parser(Side::Asking), &[&out]).unwrap();
    assert_eq!((read.cancelled, read.complete), (vec![1], vec![(3, b"other".to_vec(), vec![])]));

    // The reader forgets one in the middle: its other parts are skipped, and its id may begin again.
    let mut outbox = Outbox::default();
    outbox.ask(1, 0, Bytes::from(vec![1; 90_000]), Bytes::new());
    outbox.ask(2, 0, Bytes::from_static(b"other"), Bytes::new());
    let bytes = written(&mut outbox);
    let mut parser = parser(Side::Asking);
    let (mut input, mut complete) = (&bytes[..], Vec::new());
    while let Some(event) = parser.next(&mut input).unwrap() {
        match event {
            Event::Question { id: 1, .. } => parser.forget(1),
            Event::Bytes { id, .. } => assert_eq!(id, 2),
            Event::Complete { id } => complete.push(id),
            _ => (),
        }
    }
    assert_eq!(complete, [2]);
    let mut outbox = Outbox::default();
    outbox.ask(1, 0, Bytes::new(), Bytes::new());
    assert_eq!(super::tests::read(&mut parser, &[&written(&mut outbox)]).unwrap().complete.len(), 1);
}

#[test]
fn an_empty_message_that_is_forgotten_at_once_never_completes() {
    let mut outbox = Outbox::default();
    outbox.ask(1, 0, Bytes::new(), Bytes::new());
    let bytes = written(&mut outbox);
    let (mut parser, mut input) = (parser(Side::Asking), &bytes[..]);
    assert!(matches!(parser.next(&mut input), Ok(Some(Event::Question { id: 1, .. }))));
    parser.forget(1);
    assert_eq!(parser.next(&mut input), Ok(None));
}

fn part(kind: u8, id: u64, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &id.to_le_bytes(), &(body.len() as u32).to_le_bytes(), body].concat()
}

fn begin(kind: u8, id: u64, head: u32, payload: u32, first: &[u8]) -> Vec<u8> {
    let lengths = [head.to_le_bytes(), payload.to_le_bytes()].concat();
    let patience: &[u8] = if kind == QUESTION { &[0; 4] } else { &[] };
    part(kind, id, &[patience, &lengths, first].concat())
}

#[test]
fn what_is_not_in_order_is_a_fault() {
    let read_by = |writer, bytes: &[Vec<u8>]| read(&mut parser(writer), &[&bytes.concat()]).err();
    for kind in [ANSWER, BUSY, 5, 255] {
        assert_eq!(read_by(Side::Asking, &[part(kind, 1, &[])]), Some(Fault::Kind(kind)));
    }
    for kind in [QUESTION, CANCEL, 5, 255] {
        assert_eq!(read_by(Side::Serving, &[part(kind, 1, &[])]), Some(Fault::Kind(kind)));
    }
    let cases = [
        (part(QUESTION, 1, &[0; 11]), Fault::Length { length: 11 }),
        (part(MORE, 1, &[]), Fault::Length { length: 0 }),
        (part(MORE, 1, &vec![0; PART_BYTES_MAX + 1]), Fault::Length { length: PART_BYTES_MAX + 1 }),
        (part(CANCEL, 1, &[0]), Fault::Length { length: 1 }),
        (begin(QUESTION, 1, 100_001, 0, &[]), Fault::TooLarge { head: 100_001, payload: 0 }),
        (begin(QUESTION, 1, 0, u32::MAX, &[]), Fault::TooLarge { head: 0, payload: u32::MAX as usize }),
        (begin(QUESTION, 1, 1, 1, &[1, 2, 3]), Fault::Beyond { id: 1 }),
        ([begin(QUESTION, 1, 2, 1, &[1]), part(MORE, 1, &[2, 3, 4])].concat(), Fault::Beyond { id: 1 }),
        ([begin(QUESTION, 1, 2, 1, &[1]), begin(QUESTION, 1, 2, 1, &[])].concat(), Fault::Again { id: 1 }),
    ];
    for (bytes, fault) in cases {
        assert_eq!(read_by(Side::Asking, &[bytes]), Some(fault));
    }
    // Bytes of what nobody knows are those of one that was forgotten.
    assert_eq!(read_by(Side::Asking, &[part(MORE, 9, &[1, 2]), part(CANCEL, 9, &[])]), None);
}

proptest! {
    #[test]
    fn what_is_written_reads_back_however_it_is_cut(
        messages in proptest::collection::vec((0usize..40_000, 0usize..40_000, any::<u32>()), 1..6),
        cuts in proptest::collection::vec(1usize..5_000, 1..20),
        asks in any::<bool>(),
    ) {
        let mut outbox = Outbox::default();
        let mut wanted = BTreeMap::new();
        for (id, (head, payload, patience)) in messages.iter().enumerate() {
            let (head, payload) = (vec![id as u8; *head], vec![!(id as u8); *payload]);
            wanted.insert(id as u64, (head.clone(), payload.clone()));
            match asks {
                true => outbox.ask(id as u64, *patience, head.into(), payload.into()),
                false => outbox.answer(id as u64, head.into(), payload.into()),
            }
        }
        let bytes = written(&mut outbox);
        let (mut pieces, mut rest, mut cuts) = (Vec::new(), &bytes[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            pieces.push(piece);
            rest = after;
        }
        let writer = if asks { Side::Asking } else { Side::Serving };
        let read = read(&mut parser(writer), &pieces).unwrap();
        let found: BTreeMap<_, _> = read.complete.into_iter().map(|(id, head, payload)| (id, (head, payload))).collect();
        prop_assert_eq!(found, wanted);
        if asks {
            for (id, (_, _, patience)) in messages.iter().enumerate() {
                prop_assert_eq!(read.patience.get(&(id as u64)), Some(patience));
            }
        }
    }
}
