//! Copies that are compared.

use quorate_protocols::job::batch::Map;
use quorate_protocols::job::record::RunState;
use quorate_protocols::task::spec::{Program, Verify};
use quorate_protocols::task::vote::check_receipts;

use super::world::{World, call, compute, peer};

fn verified(args: &[&str]) -> quorate_protocols::job::batch::BatchSpec {
    let mut call = call(args);
    let module = quorate_protocols::task::spec::Content::Inline(bytes::Bytes::from_static(b"module"));
    call.program = Program::Wasm { module, fuel: Some(1_000), deterministic: true };
    let mut spec = compute(Map::Single, call);
    spec.verify = Some(Verify { copies: 3, agree: 2 });
    spec
}

#[tokio::test(start_paused = true)]
async fn a_liar_is_outvoted_and_named() {
    let mut world = World::new(3, 2).await;
    world.lie(1);
    let job = world.submit(1, verified(&["say", "the truth"]));
    world.run_until(job, RunState::Succeeded).await;
    assert_eq!(world.output(job, 0, 0), "the truth");
    let votes = world.task(job, 0, 0).extras.unwrap().votes;
    let receipts: Vec<_> = votes.iter().map(|vote| vote.receipt).collect();
    let agreement = check_receipts(&receipts, 2).unwrap();
    assert_eq!(agreement.dissenting, [peer(1)]);
    world.settle().await;
    assert!((0..3).all(|index| world.metrics(index).held.get() == 0 && world.rows(index) == 0));
}

/// Goal: a verdict that was committed to survives its worker: after the restart the same one is shown.
#[tokio::test(start_paused = true)]
async fn a_commitment_survives_its_worker() {
    let mut world = World::new(3, 1).await;
    // The third copy keeps the others waiting.
    world.quorum.set_away(2, true);
    let job = world.submit(1, verified(&["say", "the truth"]));
    world.run_while(|world| world.metrics(0).recorded.get() < 1 || world.metrics(1).recorded.get() < 1).await;
    world.crash(0).await;
    world.start(0).await;
    world.quorum.set_away(2, false);
    world.run_until(job, RunState::Succeeded).await;
    assert_eq!((world.attempts(job, 0), world.begun()), (3, 3));
}

/// Goal: what all copies come to is a result, also when it is a failure.
#[tokio::test(start_paused = true)]
async fn copies_agree_on_a_failure() {
    let mut world = World::new(3, 1).await;
    let job = world.submit(1, verified(&["trap"]));
    world.run_until(job, RunState::Failed).await;
    assert!(world.reason(job).contains("agree on trap"), "{}", world.reason(job));
}
