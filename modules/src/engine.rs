//! Engine settings: how modules are validated and compiled, the same in the node and in the process that compiles.

use wasmtime::{Config, Engine, OptLevel};

/// Stack of a module, inside that of its thread.
const WASM_STACK_BYTES: usize = 1 << 20;

/// How a module is compiled: with fuel counted and every result the same on every machine, or for speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Flavour {
    /// Only an epoch ends it.
    Free,
    /// Fuel is counted, NaNs have one form, relaxed SIMD one meaning.
    Metered,
}

impl Flavour {
    pub fn engine(self) -> wasmtime::Result<Engine> {
        let mut config = Config::new();
        config
            .epoch_interruption(true)
            .max_wasm_stack(WASM_STACK_BYTES)
            .cranelift_opt_level(OptLevel::Speed)
            // Only the standard's 32-bit pointers mean anything to WASI preview 1.
            .wasm_memory64(false)
            .wasm_backtrace_max_frames(None)
            .generate_address_map(false);
        if self == Self::Metered {
            config.consume_fuel(true).cranelift_nan_canonicalization(true).relaxed_simd_deterministic(true);
        }
        Engine::new(&config)
    }
}
