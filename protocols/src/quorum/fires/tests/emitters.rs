//! Emitters of events: the table that remembers them, what they lost, and the shares of those that nobody trusts.

use super::*;

fn emitter(number: usize) -> PeerId {
    let mut peer = [0; 32];
    peer[..8].copy_from_slice(&(number as u64).to_be_bytes());
    PeerId(peer)
}

/// An emitter says that it lost the event after this one. It is on record by that, without any event.
fn lost(emitter: PeerId, follows: u64, lost: u64) -> Command {
    let (reaches, deliveries) = (follows + 1, Vec::new());
    Command::Trigger(TriggerCommand::Deliver { emitter, follows, reaches, lost, deliveries })
}

fn said(number: usize, reaches: u64) -> Command {
    lost(emitter(number), reaches - 1, 1)
}

/// Goal: the table of emitters is bounded. Method: as many as it holds say something; one more is refused until some
/// were silent for long. Then it takes the place of one of these, and who was heard meanwhile keeps its own.
#[test]
fn a_full_table_of_emitters_makes_room_of_the_silent_alone() {
    let mut quorum = Quorum::new();
    quorum.submit(1, on_event(|_| ()));
    for number in 0..EMITTERS_MAX {
        quorum.index += 1;
        let batch = Batch::at(Millis(quorum.now), vec![(OWNER, said(number, 1))]);
        assert!(quorum.state.apply(LogIndex(quorum.index), &batch).0.replies[0].is_ok());
    }
    let full = Rejection::Full { what: "emitters of events".to_owned(), limit: EMITTERS_MAX };
    assert_eq!(quorum.apply(said(EMITTERS_MAX, 1)), Err(full));
    quorum.now += EMITTER_SILENT.as_millis() as u64 + SECOND;
    quorum.apply(said(0, 2)).unwrap();
    quorum.apply(said(EMITTERS_MAX, 1)).unwrap();
    let emitters = quorum.state.triggers.emitters();
    assert_eq!(emitters.len(), EMITTERS_MAX);
    assert!(emitters.contains_key(&emitter(0)) && !emitters.contains_key(&emitter(1)));
    assert!(emitters.contains_key(&emitter(EMITTERS_MAX)));
}

/// Goal: no emitter's word that events were lost pushes fires out of a trigger's list, and an honest one's counts.
/// Method: a peer that never emitted anything says so after each fire, of more events than rows are kept.
#[test]
fn what_is_said_to_be_lost_takes_one_row_a_day() {
    let mut quorum = Quorum::with_worker();
    let door = quorum.submit(1, on_event(|_| ()));
    let hostile = PeerId([6; 32]);
    for round in 0..4 {
        quorum.deliver(round, &[event(None, "1")]).unwrap();
        quorum.now += SECOND;
        quorum.apply(lost(hostile, round, 1_000 * FIRES_KEPT_MAX as u64)).unwrap();
    }
    let hostile_lost = 4_000 * FIRES_KEPT_MAX as u64;
    assert_eq!(quorum.story(door), format!("r Lost{hostile_lost} r r r"));
    quorum.apply(lost(EMITTER, 4, 3)).unwrap();
    let rows = |quorum: &Quorum| quorum.state.trigger(door).unwrap().1.fires.len();
    assert_eq!((quorum.story(door), rows(&quorum)), (format!("r Lost{} r r r", hostile_lost + 3), 5));
    let told = quorum.rows[&(door, 2)].what;
    assert!(matches!(told, Fired::Skipped { last, .. } if last == Millis(quorum.now)), "{told:?}");
    let emitters = quorum.state.triggers.emitters();
    assert_eq!((emitters[&EMITTER].lost, emitters[&hostile].lost), (3, hostile_lost), "each has its own count");
    // What is lost on another day has a row of its own.
    quorum.now += LOST_ROW_SPAN.as_millis() as u64;
    quorum.apply(lost(EMITTER, 5, 2)).unwrap();
    quorum.apply(lost(hostile, 4, u64::MAX)).unwrap();
    assert_eq!(quorum.story(door), format!("r Lost{} r r r Lost{}", hostile_lost + 3, u64::MAX));
}

/// Goal: emitters that a primary does not trust keep nobody whom it trusts from the table, and the silent do not count
/// against those that speak.
#[test]
fn emitters_that_are_not_trusted_have_a_share_of_the_table() {
    let mut quorum = Quorum::new();
    quorum.submit(1, on_event(|_| ()));
    let (trusts_nobody, trusts_the_first) = (|_: PeerId| false, |peer: PeerId| peer == emitter(0));
    for number in 0..UNTRUSTED_EMITTERS_MAX {
        assert_eq!(quorum.state.heard_emitters().check_untrusted_room(trusts_nobody), Ok(()));
        quorum.index += 1;
        let batch = Batch::at(Millis(quorum.now), vec![(OWNER, said(number, 1))]);
        assert!(quorum.state.apply(LogIndex(quorum.index), &batch).0.replies[0].is_ok());
    }
    let full =
        Rejection::Full { what: "emitters of events that are not trusted".to_owned(), limit: UNTRUSTED_EMITTERS_MAX };
    let heard = quorum.state.heard_emitters();
    assert_eq!(heard.check_untrusted_room(trusts_nobody), Err(full));
    assert_eq!(heard.check_untrusted_room(trusts_the_first), Ok(()));
    assert!(heard.contains(&emitter(1)) && !heard.contains(&emitter(UNTRUSTED_EMITTERS_MAX)));
    quorum.now += EMITTER_SILENT.as_millis() as u64;
    quorum.apply(said(0, 2)).unwrap();
    let heard = quorum.state.heard_emitters();
    assert!(
        heard.contains(&emitter(0)) && !heard.contains(&emitter(1)),
        "it counts as one more when it is heard again"
    );
    assert_eq!(heard.check_untrusted_room(trusts_nobody), Ok(()));
}
