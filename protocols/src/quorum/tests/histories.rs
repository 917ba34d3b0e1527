//! Random histories of commands against the invariants.

use super::*;

/// A command in small numbers; made concrete against the state, so that many are legal and some are just wrong.
#[derive(Clone, Debug)]
struct Draw {
    what: u8,
    job: u8,
    peer: u8,
    column: u8,
    /// Mostly 0: added to the attempts that would be right.
    skew: u8,
    content: u8,
    mask: u8,
    time: u16,
}

fn draw() -> impl Strategy<Value = Draw> {
    let skew = prop_oneof![6 => Just(0u8), 1 => Just(1u8), 1 => Just(255u8)];
    (0u8..18, 0u8..3, 0..PEERS, 0u8..4, skew, 1u8..3, any::<u8>(), any::<u16>()).prop_map(
        |(what, job, peer, column, skew, content, mask, time)| Draw {
            what,
            job,
            peer,
            column,
            skew,
            content,
            mask,
            time,
        },
    )
}

fn skewed(attempt: Attempt, skew: u8) -> Attempt {
    Attempt(attempt.0.wrapping_add_signed((skew as i8).into()))
}

fn concrete(state: &QuorumState, draw: &Draw) -> (PeerId, Command) {
    let job = job(draw.job);
    let column = PieceIndex(draw.column);
    let run = state.jobs.get(&job).map(|record| record.store().unwrap().1);
    let worker = run.map_or(peer(draw.peer), |run| if draw.mask == 0 { peer(draw.peer) } else { run.uploader });
    let upload_attempt = skewed(run.map_or(Attempt(1), |run| run.upload_attempt), draw.skew);
    let current = run.and_then(|run| run.columns.get(draw.column as usize)).map_or(Attempt(0), |c| c.attempt);
    let manifest = manifest(draw.content).hash();
    let object = state.objects.get(&manifest);
    let at = |index: u8| object.and_then(|object| object.columns.get(index as usize));
    let held = at(draw.column).map_or(Attempt(1), |column| column.attempt);
    let newest = object.and_then(|o| o.newest.get(draw.column as usize)).copied().unwrap_or_default();
    let reason = "reason".to_owned();
    let grants =
        (0..PEERS)
            .filter(|index| (draw.mask >> (index % 8)) & 1 == 1)
            // Now and then under a new lease, as a peer that is asked again would promise.
            .map(|index| {
                if draw.skew == 1 { Grant { lease: LeaseId([100 + index; 16]), ..grant(index) } } else { grant(index) }
            })
            .collect();
    // Now and then by who has not seen the last of it.
    let older = u64::from(draw.skew == 1);
    let seen = |newest: Option<LogIndex>| LogIndex(newest.unwrap_or_default().0.saturating_sub(older));
    let seen_job = seen(state.jobs.get(&job).map(|record| record.seen()));
    let mut by = peer(draw.peer);
    let command = match draw.what {
        0 => Command::Quorum(QuorumCommand::Noop),
        1 => Command::submit(&key(0), job, spec()),
        2 | 3 => Command::store(job, StoreCommand::AddHolders { grants, exhausted: draw.what == 3 }),
        4 => Command::store(job, StoreCommand::Attach),
        5 | 6 => {
            by = worker;
            let stored: Vec<_> = (0..3u8)
                .filter(|column| (draw.mask >> column) & 1 == 1)
                .map(|column| (column, run.map_or(1, |run| skewed(run.columns[column as usize].attempt, draw.skew).0)))
                .collect();
            let segments = vec![progress(draw.mask as u32 % 3, draw.content, &stored)];
            Command::store(job, StoreCommand::Progress { upload_attempt, segments })
        }
        7 | 8 => {
            by = worker;
            Command::store(
                job,
                StoreCommand::ColumnFailed { upload_attempt, column, attempt: skewed(current, draw.skew), reason },
            )
        }
        9 | 10 => {
            by = worker;
            let columns = run.map(|run| run.columns.as_slice()).unwrap_or_default().iter().enumerate();
            let receipts = columns.filter(|(index, _)| draw.mask >> index & 1 == 1).filter_map(|(index, column)| {
                let grant = column.grant?;
                let attempt = skewed(column.attempt, draw.skew);
                let slot = Slot { job, column: PieceIndex(index as u8), attempt };
                receipt(grant.holder.peer, grant.lease, slot, draw.content)
            });
            let receipts = receipts.collect();
            let degraded = draw.mask.is_multiple_of(2);
            Command::store(
                job,
                StoreCommand::Commit { upload_attempt, manifest: encoded(draw.content), receipts, degraded },
            )
        }
        11 if draw.mask < 40 => Command::store(job, StoreCommand::Fail { upload_attempt: None, reason }),
        11 if draw.mask < 80 => Command::control(job, seen_job, Control::Cancel),
        11 => Command::store(job, StoreCommand::Abandon { upload_seq: run.map_or(0, |run| run.upload_seq) }),
        12 => Command::Object(manifest, ObjectCommand::Confirmed { column, attempt: skewed(held, draw.skew) }),
        13 => {
            let claims = match draw.mask % 3 {
                0 => ClaimSelector::Named { owner: peer(draw.peer), name: None },
                1 => ClaimSelector::OwnedBy(peer(draw.peer)),
                _ => ClaimSelector::All,
            };
            let seen = seen(object.map(|object| object.claims.seen()));
            Command::Object(manifest, ObjectCommand::Remove { claims, seen, force: draw.mask.is_multiple_of(2) })
        }
        14 if draw.mask < 128 => {
            Command::Object(manifest, ObjectCommand::OweRepair { column, attempt: skewed(held, draw.skew), reason })
        }
        14 => Command::Quorum(QuorumCommand::SetStandbys { standbys: vec![standby(draw.peer)] }),
        15 => {
            let attempt = skewed(newest, draw.skew);
            Command::Object(manifest, ObjectCommand::StartRepair { column, attempt, grant: grant(draw.peer), reason })
        }
        16 => match object.and_then(|object| Some((object.job, object.repairs.get(&column)?))) {
            Some((job, repair)) if draw.mask < 200 => {
                let slot = Slot { job, column, attempt: skewed(repair.attempt, draw.skew) };
                match receipt(repair.grant.holder.peer, repair.grant.lease, slot, draw.content) {
                    Some(receipt) => Command::Object(manifest, ObjectCommand::FinishRepair { column, receipt }),
                    None => Command::Quorum(QuorumCommand::Noop),
                }
            }
            Some((_, repair)) => {
                Command::Object(manifest, ObjectCommand::FailRepair { column, attempt: repair.attempt, reason })
            }
            None => Command::Quorum(QuorumCommand::Noop),
        },
        _ => match state
            .duties()
            .into_iter()
            .filter(|duty| matches!(duty, Duty::Release { .. }))
            .nth(draw.mask as usize % 4)
        {
            Some(Duty::Release { job, column, grant, attempt }) => {
                Command::store(job, StoreCommand::Released { column, grant, attempt })
            }
            _ => Command::Quorum(QuorumCommand::RaiseLevel { level: 1 }),
        },
    };
    (by, command)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    /// Goal: no history of commands breaks an invariant, loses a reservation, or lets two members differ. Method: draw
    /// commands around the current state, apply to one member one by one and to another from its snapshot.
    #[test]
    fn no_history_breaks_an_invariant(draws in proptest::collection::vec(draw(), 1..120)) {
        let mut state = QuorumState::new(QUORUM);
        let mut other = state.clone();
        for (index, draw) in draws.iter().enumerate() {
            let (by, command) = concrete(&state, draw);
            let before = state.clone();
            let foretold = state.foretell_reply(by, &command);
            let batch = Batch::at(Millis(draw.time as u64), vec![(by, command.clone())]);
            let reply = state.apply(LogIndex(index as u64), &batch);
            state.check_invariants().unwrap();
            if let Some(foretold) = foretold {
                prop_assert_eq!(&foretold, &reply.0.replies[0], "another reply was foretold");
            }
            before.check_step(&state, &command, &reply.0.replies[0]).unwrap();
            if index % 7 == 0 {
                let chunks = other.encode_snapshot();
                other = QuorumState::decode_snapshot(chunks.iter().map(|(_, chunk)| chunk)).unwrap();
            }
            prop_assert_eq!(&reply, &other.apply(LogIndex(index as u64), &batch));
        }
        prop_assert_eq!(state.encode_snapshot(), other.encode_snapshot());
        prop_assert_eq!(state.rolling, other.rolling);
    }

    /// Goal: a damaged snapshot is an error or a sound state, never a panic.
    #[test]
    fn a_damaged_snapshot_is_never_taken_for_a_broken_state(
        draws in proptest::collection::vec(draw(), 1..60),
        at: prop::sample::Index,
        chunk: prop::sample::Index,
        value: u8,
        cut: bool,
    ) {
        let mut state = QuorumState::new(QUORUM);
        for (index, draw) in draws.iter().enumerate() {
            let batch = Batch::at(Millis(draw.time as u64), vec![concrete(&state, draw)]);
            state.apply(LogIndex(index as u64), &batch);
        }
        let mut chunks: Vec<Vec<u8>> = state.encode_snapshot().into_iter().map(|(_, chunk)| chunk.to_vec()).collect();
        let chunk = chunk.index(chunks.len());
        let at = at.index(chunks[chunk].len());
        if cut { chunks[chunk].truncate(at) } else { chunks[chunk][at] = value }
        if let Ok(state) = QuorumState::decode_snapshot(&chunks) {
            state.check_invariants().unwrap();
            let mut state = state;
            // Whatever it says, it goes on working.
            for (index, draw) in draws.iter().enumerate() {
                let batch = Batch::at(Millis(draw.time as u64), vec![concrete(&state, draw)]);
                state.apply(LogIndex(index as u64), &batch);
            }
        }
    }
}
