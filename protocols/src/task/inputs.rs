//! Digests of what a task is given: what receipts name, and the token that is the same for every attempt.

use super::record::TaskId;
use super::spec::{Call, TaskInput};
use crate::ids::Digest;
use crate::wire;

/// Everything that a task's output may depend on, as one digest: its call, what it is given, and the outputs that it
/// folds (by their digests). Receipts name it, so that whoever has the specification can tell what was computed.
pub fn inputs_digest(call: &Call, input: &TaskInput, folded: &[Digest]) -> Digest {
    inputs_digest_under(call_digest(call), input, folded)
}

/// What tasks of one step have in common, for [`inputs_digest_under`]: a call may carry a module, and is hashed once.
pub fn call_digest(call: &Call) -> Digest {
    Digest(*blake3::hash(&wire::encode(call)).as_bytes())
}

/// As [`inputs_digest`], of a call with this digest.
pub fn inputs_digest_under(call: Digest, input: &TaskInput, folded: &[Digest]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("quorate 2026 task inputs 1");
    hasher.update(&wire::encode(&(call, input, folded)));
    Digest(*hasher.finalize().as_bytes())
}

/// Names one task whatever the attempt: a program that hands it to what it changes outside is not done twice.
pub fn idempotency_token(task: TaskId) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("quorate 2026 idempotency token 1");
    hasher.update(&wire::encode(&task));
    Digest(*hasher.finalize().as_bytes())
}
