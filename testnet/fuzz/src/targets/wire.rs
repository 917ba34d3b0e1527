//! Every message and record of the wire's samples: hostile bytes are refused or read, in bounded memory, and what was
//! read is written in one form only, which reads back.

use quorate_protocols::wire::DecodeError;

use super::Target;
use crate::meter::metered;
use crate::samples::{Sample, samples};
use crate::trail::Trail;

pub fn targets() -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for Sample { file, name, bytes, reread, .. } in samples() {
        // `message.3` of `job.txt` is a variant of `wire-job-message`.
        let name = format!("wire-{file}-{}", name.split('.').next().unwrap_or(&name));
        let run = move |bytes: &[u8]| {
            let mut trail = Trail::default();
            match metered(bytes.len(), || reread(bytes)) {
                Ok(again) => {
                    assert_eq!(reread(&again).as_ref(), Ok(&again), "what was read does not read back");
                    trail.mark(("read", again.first(), again.get(1), again.len().ilog2()));
                }
                Err(DecodeError::Malformed { reason }) => trail.mark_words("malformed", &reason),
                Err(error) => trail.mark_variant("refused", &error),
            }
            trail
        };
        match targets.iter_mut().find(|target| target.name == name) {
            Some(target) => target.seeds.push(bytes),
            None => targets.push(Target::bytes(&name, run).with_seeds([bytes])),
        }
    }
    targets
}
