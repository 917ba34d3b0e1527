//! A bounded slice of the fuzzing, and the proof that it finds what is broken.

use quorate_fuzz::corpus;
use quorate_fuzz::runner::{Failure, round, try_once};
use quorate_fuzz::script::steps;
use quorate_fuzz::targets::{Target, all};
use quorate_fuzz::trail::Trail;

/// Goal: nothing that was ever found comes back, and what travels is read.
#[test]
fn every_committed_input_is_harmless() {
    let targets = all();
    for name in corpus::targets() {
        assert!(targets.iter().any(|target| target.name == name), "corpus/{name}.txt belongs to no target");
    }
    for target in &targets {
        for seed in &target.seeds {
            if let Err(what) = try_once(target, seed) {
                panic!("{}: {}: {what}", target.name, hex::encode(seed));
            }
        }
    }
}

/// Goal: a slice of what `scripts/fuzz` does runs with every test run. The first seed's first inputs, by target.
#[test]
fn no_target_is_broken_by_its_first_inputs() {
    for target in all() {
        // A history takes many times as long as a message does.
        let inputs = if target.grain == 1 && target.name != "quorum-bytes" { 400 } else { 60 };
        match round(&target, 1, 0, inputs, |_| true) {
            Ok(report) => assert!(report.marks > 1, "{}: every input does the same", target.name),
            Err(failure) => panic!(
                "{}: {} (echo 'found {}' > {}.txt; scripts/fuzz --replay {}.txt)",
                target.name,
                failure.what,
                hex::encode(&failure.input),
                target.name,
                target.name
            ),
        }
    }
}

#[test]
fn one_seed_is_one_sequence_of_inputs() {
    let inputs = |seed| {
        let target = all().into_iter().find(|target| target.name == "config").unwrap();
        let mut seen = Vec::new();
        round(&target, seed, 3, 50, |input| {
            seen.push(input.to_vec());
            true
        })
        .unwrap();
        seen
    };
    assert_eq!(inputs(1), inputs(1));
    assert_ne!(inputs(1), inputs(2));
}

fn found(target: &Target, within: u64) -> Failure {
    *round(target, 1, 0, within, |_| true).expect_err("the planted fault is found")
}

/// A decoder that believes a length: the classic.
#[test]
fn a_decoder_that_trusts_a_length_is_found_and_its_input_made_small() {
    let mut target = Target::bytes("planted", |bytes| {
        if let [b'Q', length, rest @ ..] = bytes {
            assert!(usize::from(*length) <= rest.len(), "out of bounds");
        }
        Trail::default()
    });
    target.seeds = vec![[b"Q\x08".to_vec(), b"12345678".to_vec()].concat()];
    let failure = found(&target, 1_000);
    assert!(failure.what.contains("out of bounds"), "{}", failure.what);
    assert_eq!(failure.input.len(), 2, "two bytes are enough to show it: {:?}", failure.input);
}

/// A reader that allocates what its input claims.
#[test]
fn a_reader_that_allocates_what_is_claimed_is_found() {
    let mut target = Target::bytes("planted", |bytes| {
        quorate_fuzz::meter::metered(bytes.len(), || {
            if let Some((length, _)) = bytes.split_first_chunk::<4>() {
                let claimed = Vec::<u8>::with_capacity(u32::from_le_bytes(*length) as usize / 16);
                // An optimiser leaves out what nobody looks at.
                drop(std::hint::black_box(claimed));
            }
        });
        Trail::default()
    });
    target.seeds = vec![4u32.to_le_bytes().to_vec()];
    assert!(found(&target, 1_000).what.contains("allocated at once"));
}

/// A counter that forgets one release in one of its states: only a history of the right order shows it.
#[test]
fn a_state_machine_that_leaks_in_one_order_of_steps_is_found() {
    let target = Target::script("planted", |bytes| {
        let (mut trail, mut held, mut counted, mut is_paused, mut is_draining) = (Trail::default(), 0, 0, false, false);
        for step in steps(bytes) {
            match step.below(0, 8) {
                0 => is_paused = true,
                1 => is_paused = false,
                2 => is_draining = is_paused,
                3 => (held, counted) = (held + 1, counted + 1),
                4 if held > 0 => {
                    held -= 1;
                    // The planted fault.
                    counted -= i32::from(!(is_paused && is_draining));
                }
                _ => {}
            }
            trail.mark((is_paused, is_draining, held.min(4)));
            assert_eq!(held, counted, "leaked");
        }
        trail
    });
    let failure = found(&target, 4_000);
    assert!(failure.what.contains("leaked"));
    assert!(
        failure.input.len() <= 4 * quorate_fuzz::script::STEP_BYTES,
        "pause, drain, take, give: {:?}",
        failure.input
    );
}
