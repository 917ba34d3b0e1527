//! Removing objects: one claim of several, and what live jobs need.

use super::*;
use crate::job::batch::{BatchSpec, Map};
use crate::job::spec::TriggeredSpec;
use crate::quorum::limits::LEVEL;
use crate::quorum::uses::Part;
use crate::task::spec::{Call, Content, Program, Split};
use crate::trigger::spec::{Bounds, ConditionSpec, Source, TriggerSpec, When};

fn named(name: &str) -> JobSpec {
    JobSpec::store(StoreSpec { name: Some(name.to_owned()), size: None, profile: PROFILE })
}

fn store(quorum: &mut Quorum, index: u8, owner: u8, name: &str) {
    quorum.apply(peer(owner), Command::submit(&key(owner), job(index), named(name))).unwrap();
    quorum.add(index, &[1, 2, 3]).unwrap();
    let receipts = quorum.receipts(index, 1);
    quorum.commit(index, 1, receipts, false).unwrap();
}

/// Content 1, stored by these peers under these names, with runs 1, 2, and so on.
fn stored_as(claims: &[(u8, &str)]) -> Quorum {
    let mut quorum = Quorum::new();
    for (index, (owner, name)) in claims.iter().enumerate() {
        store(&mut quorum, index as u8 + 1, *owner, name);
    }
    quorum.state.level = LEVEL;
    quorum
}

fn hash() -> ManifestHash {
    manifest(1).hash()
}

fn remove(claims: ClaimSelector, force: bool) -> Command {
    Command::Object(hash(), ObjectCommand::Remove { claims, seen: LogIndex(u64::MAX), force })
}

fn one(owner: u8, name: &str) -> ClaimSelector {
    ClaimSelector::Named { owner: peer(owner), name: Some(name.to_owned()) }
}

/// Names that keep the object after the removal.
fn kept(reply: Result<CommandReply, Rejection>) -> Vec<String> {
    let Ok(CommandReply::Removed { kept, .. }) = reply else { panic!("{reply:?}") };
    kept.into_iter().filter_map(|claim| claim.name).collect()
}

/// Goal: a put that was acknowledged is not undone by a removal that was asked for before it, when that arrives late or
/// a copy of it does.
#[test]
fn a_removal_takes_no_claim_that_was_made_or_renewed_since_it_was_asked_for() {
    let mut quorum = stored_as(&[(0, "a.txt")]);
    let asked = |quorum: &Quorum, claims| {
        let seen = quorum.state.objects[&hash()].claims.seen();
        Command::Object(hash(), ObjectCommand::Remove { claims, seen, force: false })
    };
    let (one_of, all_of) = (asked(&quorum, one(0, "a.txt")), asked(&quorum, ClaimSelector::All));
    store(&mut quorum, 2, 0, "a.txt");
    store(&mut quorum, 3, 8, "b.txt");
    assert_eq!(kept(quorum.apply(peer(0), one_of.clone())), ["a.txt", "b.txt"], "it was stored again under its name");
    assert_eq!(kept(quorum.apply(peer(7), all_of)), ["a.txt", "b.txt"], "nor is one taken that was not there");
    let mine = asked(&quorum, one(0, "a.txt"));
    assert_eq!(kept(quorum.apply(peer(0), mine.clone())), ["b.txt"]);
    // Made anew after it was given up.
    store(&mut quorum, 4, 0, "a.txt");
    for late in [one_of, mine] {
        assert_eq!(kept(quorum.apply(peer(0), late)), ["b.txt", "a.txt"]);
    }
    assert_eq!(quorum.state.objects[&hash()].state, ObjectState::Live);
}

/// Goal: whoever stored equal bytes as two files and removes one has the other, and so has everybody else.
#[test]
fn a_name_that_is_removed_takes_no_other_along() {
    let mut quorum = stored_as(&[(0, "a.txt"), (0, "b.txt"), (8, "a.txt"), (0, "a.txt")]);
    let claims: Vec<_> = quorum.state.objects[&hash()].claims.iter().map(|claim| claim.name.clone().unwrap()).collect();
    assert_eq!(claims, ["a.txt", "b.txt", "a.txt"], "stored again under its name, it is the same claim");
    assert_eq!(kept(quorum.apply(peer(0), remove(one(0, "a.txt"), false))), ["b.txt", "a.txt"]);
    assert_eq!(kept(quorum.apply(peer(0), remove(one(0, "a.txt"), false))), ["b.txt", "a.txt"], "sent again");
    assert_eq!(kept(quorum.apply(peer(8), remove(one(8, "a.txt"), false))), ["b.txt"]);
    assert_eq!(quorum.state.objects[&hash()].state, ObjectState::Live);
    assert!(quorum.state.objects.manifest(&hash()).is_some());
    assert!(kept(quorum.apply(peer(0), remove(one(0, "b.txt"), false))).is_empty());
    assert_eq!(quorum.state.objects[&hash()].state, ObjectState::Removing);
    assert_eq!(quorum.events, [Event::ObjectRemoved { manifest: hash() }]);
}

/// Goal: the last claim on what a live job or trigger needs is not given up unless somebody insists; other claims are,
/// and so is what only ended jobs name.
#[test]
fn what_a_live_job_needs_keeps_its_last_claim() {
    let object = ObjectId { quorum: QUORUM, manifest: hash() };
    let content = || Content::Object { object, size: 9 };
    let command = || BatchSpec::new(Call::new(Program::Command { name: "tool".to_owned() }));
    let wasm = |module| BatchSpec::new(Call::new(Program::Wasm { module, fuel: None, deterministic: false }));
    let input = {
        let mut spec = command();
        spec.call.inputs.insert("data".to_owned(), content());
        spec
    };
    let split = Split::Exact;
    let mapped = BatchSpec { map: Map::Segments { object, size: 9, bytes: 64 * 1024, split }, ..command() };
    let items = BatchSpec { map: Map::Items(vec![Content::Inline(Bytes::new()), content()]), ..command() };
    let undone = BatchSpec { compensate: Some(Box::new(input.call.clone())), ..command() };
    let every = When::Every { period: Duration::from_secs(60), bounds: Bounds::default() };
    let condition = When::Condition(ConditionSpec {
        source: Source::Object(object),
        when: "value > 5".to_owned(),
        reset: None,
        every: Duration::from_secs(1),
        hold_for: Duration::ZERO,
        hysteresis: Duration::ZERO,
        verify: None,
    });
    let compute = |spec| JobSpec::batch(spec);
    let triggered = |when, job| JobSpec::Triggered(Box::new(TriggeredSpec::new(TriggerSpec::new(when), job)));
    let cases = [
        (compute(wasm(content())), Part::Module),
        (compute(input), Part::Input),
        (compute(mapped), Part::Input),
        (compute(items), Part::Input),
        (compute(undone), Part::Input),
        (triggered(every, wasm(content())), Part::Module),
        (triggered(condition, command()), Part::Source),
    ];
    for (spec, part) in cases {
        let mut quorum = stored_as(&[(0, "tool.wasm"), (8, "copy.wasm")]);
        let user = job(7);
        quorum.apply(peer(5), Command::submit(&key(5), user, spec)).unwrap();
        assert_eq!(kept(quorum.apply(peer(0), remove(one(0, "tool.wasm"), false))), ["copy.wasm"]);
        let refused = quorum.apply(peer(8), remove(ClaimSelector::All, false));
        let Err(Rejection::InUse { uses, .. }) = &refused else { panic!("{refused:?}") };
        assert_eq!((uses.total, uses.first[0].job, uses.first[0].part), (1, user, part));
        assert!(quorum.state.objects[&hash()].owned_by(peer(8)), "a refusal leaves no trace");
        let mut insisted = Quorum { state: quorum.state.clone(), index: quorum.index, events: Vec::new() };
        assert!(kept(insisted.apply(peer(8), remove(ClaimSelector::All, true))).is_empty());
        quorum.apply(peer(5), Command::control(user, LogIndex(u64::MAX), Control::Cancel)).unwrap();
        assert!(kept(quorum.apply(peer(8), remove(ClaimSelector::All, false))).is_empty(), "{part}: the job has ended");
    }
}

/// Goal: a quorum answers for objects of others, names a few jobs, and counts all.
#[test]
fn the_jobs_that_need_an_object_are_counted_and_the_first_are_named() {
    let elsewhere = ObjectId { quorum: QuorumId([9; 16]), manifest: ManifestHash([9; 32]) };
    let mut quorum = Quorum::new();
    let module = Content::Object { object: elsewhere, size: 9 };
    let program = Program::Wasm { module, fuel: None, deterministic: false };
    for index in 0..20 {
        let spec = BatchSpec { name: Some(format!("job {index}")), ..BatchSpec::new(Call::new(program.clone())) };
        quorum.apply(peer(0), Command::submit(&key(0), job(index), JobSpec::batch(spec))).unwrap();
    }
    let Some(QueryAnswer::Uses(uses)) = quorum.state.answer(&Query::Uses { object: elsewhere }) else { panic!() };
    assert_eq!((uses.total as usize, uses.first.len()), (20, crate::quorum::limits::USES_NAMED_MAX));
    let text = uses.to_string();
    assert!(text.starts_with(&format!("module of job {} (\"job 0\"), ", job(0))), "{text}");
    assert!(text.ends_with(" and 12 more"), "{text}");
    let other = ObjectId { manifest: ManifestHash([8; 32]), ..elsewhere };
    assert_eq!(quorum.state.uses_of(other).total, 0);
}
