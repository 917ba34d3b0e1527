//! One thread, a paused clock, seeded choices: the only place that builds a runtime for a world.

use std::future::Future;

use quorate_testnet::rng::derive;

/// Runs `work` to its end under virtual time. The clock jumps to the next timer whenever nothing is left to do, so
/// waiting costs nothing. tokio's own random choices (`select!` without `biased`) follow the seed.
pub fn run<T>(seed: u64, work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&derive(seed, "runtime")))
        .build()?;
    Ok(runtime.block_on(work))
}
