//! Leases in answers: whom which of them is named to.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::capacity::Capacity;
use crate::engine::Engine;
use crate::quorum::Asker;
use crate::quorum::command::TaskCommand;
use crate::quorum::request::JobAnswer;
use crate::quorum::watch::{EntryId, Until, WatchAnswer};
use crate::task::record::WorkerRecord;
use crate::wire;

/// The lease of a holder: no other id of these tests has such bytes.
fn promised(run: u8, holder: u8) -> Grant {
    Grant { lease: LeaseId([0xa0 + 0x10 * run + holder; 16]), ..grant(holder) }
}

fn lease_bytes(run: u8, holders: &[u8]) -> BTreeSet<u8> {
    holders.iter().map(|holder| promised(run, *holder).lease.0[0]).collect()
}

fn add(quorum: &mut Quorum, index: u8, grants: Vec<Grant>) {
    let command = Command::store(job(index), StoreCommand::AddHolders { grants, exhausted: false });
    quorum.apply(peer(0), command).unwrap();
}

/// A stored object with a column under repair, a live run that lost a holder, and a worker.
fn quorum_with_leases() -> Quorum {
    let mut quorum = Quorum::new();
    quorum.submit(1);
    add(&mut quorum, 1, (1..=4).map(|holder| promised(0, holder)).collect());
    let receipts = quorum.receipts(1, 1);
    quorum.commit(1, 1, receipts, false).unwrap();
    let (manifest, column, attempt) = (manifest(1).hash(), PieceIndex(1), Attempt(1));
    let reason = "rotten".to_owned();
    let repair = ObjectCommand::StartRepair { column, attempt, grant: promised(0, 5), reason };
    quorum.apply(peer(0), Command::Object(manifest, repair)).unwrap();
    quorum.submit(2);
    add(&mut quorum, 2, (1..=5).map(|holder| promised(1, holder)).collect());
    quorum.apply(peer(0), failed(2, 0, 1)).unwrap();
    let worker = WorkerRecord {
        grant: promised(2, 6),
        capacity: Capacity { slots: 1, ..Capacity::default() },
        engines: vec![Engine::Command],
        labels: BTreeMap::new(),
    };
    quorum.apply(peer(0), Command::Task(TaskCommand::SetWorker { worker })).unwrap();
    quorum
}

fn union<const N: usize>(sets: [BTreeSet<u8>; N]) -> BTreeSet<u8> {
    sets.into_iter().flatten().collect()
}

/// Every answer that has leases.
fn answers(quorum: &Quorum) -> Vec<JobAnswer> {
    let manifest = manifest(1).hash();
    let queries = [
        Query::Job { job: job(1) },
        Query::Job { job: job(2) },
        Query::Jobs { after: None, limit: 10 },
        Query::Object { manifest },
        Query::Objects { after: None, limit: 10 },
        Query::Workers,
    ];
    let watched = Until::Changed { since: LogIndex(0) }.judge(&quorum.state, job(2)).unwrap();
    let update = WatchAnswer::Update { met: vec![(EntryId(1), watched)], refused: Vec::new() };
    let asked = queries.iter().map(|query| JobAnswer::Answer(quorum.state.answer(query).unwrap()));
    asked.chain([JobAnswer::Watched(update)]).collect()
}

/// The leases that the encoded answers name, by the byte that each is made of.
fn leases_in(answers: &[JobAnswer]) -> BTreeSet<u8> {
    let encoded = wire::encode(answers);
    let runs = encoded.windows(LeaseId::LEN).filter(|bytes| bytes.iter().all(|byte| *byte == bytes[0]));
    runs.map(|bytes| bytes[0]).filter(|byte| (0xa0..0xd0).contains(byte)).collect()
}

fn asker(reader: u8) -> Asker {
    Asker { by: peer(reader), is_operator: false, is_member: false }
}

fn read_by(quorum: &Quorum, reader: u8) -> BTreeSet<u8> {
    read_as(quorum, asker(reader))
}

fn read_as(quorum: &Quorum, asker: Asker) -> BTreeSet<u8> {
    let mut answers = answers(quorum);
    answers.iter_mut().for_each(|answer| asker.redact(answer));
    leases_in(&answers)
}

/// Goal: no answer names a lease to a peer that it does not concern. Method: every answer over records with leases in
/// every place, encoded and searched for the bytes of each lease.
#[test]
fn answers_name_leases_to_those_alone_whom_they_concern() {
    let quorum = quorum_with_leases();
    let all = union([lease_bytes(0, &[1, 2, 3, 4, 5]), lease_bytes(1, &[1, 2, 3, 4, 5]), lease_bytes(2, &[6])]);
    assert_eq!(leases_in(&answers(&quorum)), all, "what the members keep");
    assert_eq!(read_as(&quorum, Asker { is_member: true, ..asker(8) }), all, "a member");
    assert_eq!(read_as(&quorum, Asker { is_operator: true, ..asker(8) }), BTreeSet::new(), "an operator");
    assert_eq!(read_by(&quorum, 8), BTreeSet::new(), "a stranger");
    assert_eq!(read_by(&quorum, 2), union([lease_bytes(0, &[2]), lease_bytes(1, &[2])]), "a holder");
    assert_eq!(read_by(&quorum, 5), union([lease_bytes(0, &[5]), lease_bytes(1, &[5])]), "who rebuilds");
    assert_eq!(read_by(&quorum, 6), lease_bytes(2, &[6]), "a worker");
    // Of the run that ended the uploader needs nothing more, and of no run the spares.
    assert_eq!(read_by(&quorum, 0), lease_bytes(1, &[4, 2, 3]), "the uploader");
}

/// Goal: what is read without leases is the same record otherwise.
#[test]
fn what_is_redacted_is_the_lease_alone() {
    let quorum = quorum_with_leases();
    let holders = |answer: &JobAnswer| match answer {
        JobAnswer::Answer(QueryAnswer::Object(view)) => {
            let columns = view.record.columns.iter().map(|column| column.grant.map(|grant| grant.holder));
            (columns.collect::<Vec<_>>(), view.record.repairs.len(), view.manifest.clone())
        }
        other => panic!("{other:?}"),
    };
    let query = Query::Object { manifest: manifest(1).hash() };
    let full = JobAnswer::Answer(quorum.state.answer(&query).unwrap());
    let mut redacted = full.clone();
    asker(8).redact(&mut redacted);
    assert_ne!(redacted, full);
    assert_eq!(holders(&redacted), holders(&full));
}
