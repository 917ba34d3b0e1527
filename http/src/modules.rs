//! Module checks of submits and plans: the answer of [`check`](quorate_modules::check) for modules that arrive
//! inline or are named as objects.
//!
//! An object never changes, so what was said of one is remembered. Reading one that is new here costs a download, so
//! few are read at once, each within a deadline. A module that cannot be read now is not refused: its workers may be
//! able to.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use parking_lot::Mutex;
use quorate_protocols::ids::{ManifestHash, ObjectId, QuorumId};
use quorate_protocols::job::JobSpec;
use quorate_protocols::task::limits::MODULE_BYTES_MAX;
use quorate_protocols::task::spec::{Content, Program};
use tokio::sync::Semaphore;

use quorate_modules::check::{self, Facts, ModuleFault};
use quorate_node::seams::run_blocking;

use super::backend::Shared;

/// Objects whose verdict is remembered, at some hundred bytes each.
const VERDICTS_MAX: usize = 1_024;

/// Modules that are read and checked at once: each is in memory while it is.
const CHECKS_MAX: usize = 2;

/// A request waits so long at most for a module's bytes.
const READ_DEADLINE: Duration = Duration::from_secs(15);

/// Stands for a module that was not sent; there is nothing to read.
pub const NOT_SENT: ObjectId = ObjectId { quorum: QuorumId([0; 16]), manifest: ManifestHash([0; 32]) };

pub type Verdict = Result<Facts, ModuleFault>;

/// What is known of the modules that jobs name.
pub struct ModuleChecks {
    verdicts: Mutex<Verdicts>,
    places: Semaphore,
}

#[derive(Default)]
struct Verdicts {
    /// With the time of its last use, which counts questions.
    known: BTreeMap<ObjectId, (u64, Verdict)>,
    questions: u64,
}

impl Default for ModuleChecks {
    fn default() -> Self {
        Self { verdicts: Mutex::default(), places: Semaphore::new(CHECKS_MAX) }
    }
}

impl ModuleChecks {
    /// The verdict on every module of a specification whose bytes can be had, each with its content.
    pub async fn of_spec(&self, backend: &Shared, spec: &JobSpec) -> Vec<(Content, Verdict)> {
        let mut verdicts: Vec<(Content, Verdict)> = Vec::new();
        for call in spec.as_batch().into_iter().flat_map(|spec| spec.calls()) {
            let Program::Wasm { module, .. } = &call.program else { continue };
            if verdicts.iter().any(|(content, _)| content == module) {
                continue;
            }
            let verdict = match module {
                Content::Inline(bytes) => Some(self.check(bytes.clone()).await),
                Content::Object { object: NOT_SENT, .. } => None,
                Content::Object { object, size } => self.of_object(backend, *object, *size).await,
            };
            verdicts.extend(verdict.map(|verdict| (module.clone(), verdict)));
        }
        verdicts
    }

    async fn check(&self, module: Bytes) -> Verdict {
        let _place = self.places.acquire().await.expect("the semaphore is never closed");
        run_blocking(move || check::check(&module).map(|checked| checked.facts)).await
    }

    async fn of_object(&self, backend: &Shared, object: ObjectId, size: u64) -> Option<Verdict> {
        if let Some(verdict) = self.recall(object) {
            return Some(verdict);
        }
        let reading = async {
            let _place = self.places.acquire().await.expect("the semaphore is never closed");
            read(backend, object, size).await
        };
        let module = tokio::time::timeout(READ_DEADLINE, reading).await.ok().flatten()?;
        let verdict = self.check(module).await;
        self.remember(object, verdict.clone());
        Some(verdict)
    }

    fn recall(&self, object: ObjectId) -> Option<Verdict> {
        let mut verdicts = self.verdicts.lock();
        verdicts.questions += 1;
        let now = verdicts.questions;
        let (used, verdict) = verdicts.known.get_mut(&object)?;
        *used = now;
        Some(verdict.clone())
    }

    fn remember(&self, object: ObjectId, verdict: Verdict) {
        let mut verdicts = self.verdicts.lock();
        let now = verdicts.questions;
        verdicts.known.insert(object, (now, verdict));
        while verdicts.known.len() > VERDICTS_MAX {
            let oldest = verdicts.known.iter().min_by_key(|(_, (used, _))| *used).map(|(object, _)| *object);
            oldest.map(|oldest| verdicts.known.remove(&oldest));
        }
    }
}

/// The module's bytes, if they can be had.
async fn read(backend: &Shared, object: ObjectId, size: u64) -> Option<Bytes> {
    let mut found = backend.get(object, None).await.ok()?;
    if found.size != size || size > MODULE_BYTES_MAX {
        return None;
    }
    let mut bytes = BytesMut::with_capacity(size as usize);
    while let Some(chunk) = found.bytes.next().await {
        bytes.extend_from_slice(&chunk.ok()?);
    }
    Some(bytes.freeze())
}
