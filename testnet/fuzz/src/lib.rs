//! Fuzzing on stable Rust: hostile bytes for every decoder, hostile histories for every state machine.
//!
//! A *target* is a plain function over bytes that panics when something is broken. Decoders take the bytes as they are;
//! state machines take them as a *script*, in which each few bytes choose the next input (`script`). A target leaves a
//! *trail* of what it saw (which errors, which replies, which moves), and an input with a new trail joins the pool from
//! which the next ones are made: a poor man's coverage, without compiler support.
//!
//! Inputs come in rounds. A round is defined by its target, its seed and its number alone, so it can be run again
//! (`runner`); it begins with the committed inputs: samples of every message from the wire's own tests, and
//! `corpus/TARGET.txt`, where every input that ever found something stays.
//!
//! What counts as broken: a panic, an assertion of the target, more memory than the input's length allows (`meter`),
//! and, in the program that `scripts/fuzz` starts, a run that takes too long or ends the process.

pub mod corpus;
pub mod meter;
pub mod runner;
pub mod script;
pub mod targets;
pub mod trail;

pub use quorate_testnet::mutate;

/// One value of everything that travels, as the wire's own tests keep it.
#[path = "../../../protocols/tests/samples/mod.rs"]
pub mod samples;
