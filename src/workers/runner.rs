//! Runs one attempt: gathers what it is given, has its executor run it, and makes of the end what its quorum is told.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::{Nonce, PeerId};
use quorate_protocols::job::signed::check_order;
use quorate_protocols::task::error_class::ErrorClass;
use quorate_protocols::task::limits::OUTPUT_BYTES_MAX;
use quorate_protocols::task::message::{Assignment, StepContext, TaskResult};
use quorate_protocols::task::record::Output;
use quorate_protocols::task::spec::{OutputPlace, Program};
use quorate_protocols::task::vote::{ResultReceipt, ResultStatement, Verdict};
use quorate_protocols::text::REASON_BYTES_MAX;
use quorate_protocols::text::truncate;
use tokio_util::sync::CancellationToken;

use super::faults::WorkerFaults;
use super::host::AttemptHost;
use super::inputs::{Inputs, Named};
use super::outputs::{self, Fault, Stores};
use super::pending_result::{PendingResult, Sealed};
use crate::executors::command::Folder;
use crate::executors::{self, Class, Content, Deterministic, Ending, Executor, Finished, Limits, Stdout, Task};
use crate::identity::Identity;
use crate::seams::{Entropy, run_blocking};

/// What every attempt of this worker makes use of.
pub(super) struct Runner {
    pub executors: BTreeMap<Engine, Arc<dyn Executor>>,
    pub inputs: Inputs,
    pub stores: Stores,
    pub identity: Identity,
    pub entropy: Arc<dyn Entropy>,
    pub faults: WorkerFaults,
}

/// What one attempt came to; `None`: it was stopped.
type Came = Result<(Output, Option<Bytes>), Fault>;

impl Runner {
    /// Runs an attempt to its end. `None` when it was stopped: then nothing of it is left running.
    pub async fn run(
        &self,
        context: &StepContext,
        assignment: &Assignment,
        host: Arc<AttemptHost>,
        stop: CancellationToken,
    ) -> Option<PendingResult> {
        // A bug on the way is this attempt's end, and nobody else's.
        let came = AssertUnwindSafe(self.attempt(context, assignment, host, stop)).catch_unwind().await;
        let came = came.unwrap_or_else(|panic| {
            let what = panic.downcast_ref::<&str>().map(|what| (*what).to_owned());
            let what = what.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            tracing::error!(job = %assignment.task.id.job, %what, "running a task panicked; this is a bug of quorate");
            Some(Err((ErrorClass::Host, format!("the worker panicked, which is a bug of quorate: {what}"))))
        })?;
        Some(self.conclude(context, assignment, came))
    }

    async fn attempt(
        &self,
        context: &StepContext,
        assignment: &Assignment,
        host: Arc<AttemptHost>,
        stop: CancellationToken,
    ) -> Option<Came> {
        let engine = context.call.program.engine();
        let Some(executor) = self.executors.get(&engine) else {
            return Some(Err((ErrorClass::Refused, format!("this worker has no engine for {engine}"))));
        };
        // A program is run on its owner's word. A module can do nothing here, whoever asks.
        if engine == Engine::Command
            && let Err(fault) = check_order(context, assignment)
        {
            tracing::warn!(job = %context.job, owner = %context.owner, %fault, "an order to run a command is refused");
            return Some(Err((
                ErrorClass::Refused,
                format!("this worker runs commands on their owner's word: {fault}"),
            )));
        }
        let gathered = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            gathered = self.gather(context, assignment) => gathered,
        };
        let (task, _inputs) = match gathered {
            Ok(gathered) => gathered,
            Err(fault) => return Some(Err(fault)),
        };
        let finished = executor.run(task, host.clone(), stop.clone()).await;
        let Finished { ending, stdout, outputs, folder, .. } = finished;
        let class = match class(&ending) {
            Ended::Cancelled => return None,
            Ended::Succeeded => {
                // File outputs are in the folder, so it stays until they were taken.
                let came = self.take_output(context, assignment, stdout, outputs, folder, &stop).await;
                if matches!(came, Some(Ok(_))) {
                    host.log.drop_stdout();
                }
                return came;
            }
            Ended::Failed(class) => class,
        };
        let told = host.log.last_words().filter(|_| is_programs_doing(class)).unwrap_or_default();
        Some(Err((class, format!("{ending}{told}"))))
    }

    async fn gather(&self, context: &StepContext, assignment: &Assignment) -> Result<(Task, Vec<Named>), Fault> {
        let call = &context.call;
        let program = match &call.program {
            Program::Wasm { module, deterministic, .. } => {
                let mut seed = [0; 8];
                // All copies and attempts of a task share its token.
                seed.copy_from_slice(&assignment.token.0[..8]);
                let world = Deterministic { seed: u64::from_le_bytes(seed), clock_ms: context.submitted_at.0 };
                let module = self.inputs.module(module).await?;
                executors::Program::Wasm { module, deterministic: deterministic.then_some(world) }
            }
            Program::Command { name } => executors::Program::Command { name: name.clone() },
        };
        let (mut inputs, mut named) = (BTreeMap::new(), Vec::new());
        for (name, content) in &call.inputs {
            let Named { source, held } = self.inputs.named(content).await?;
            inputs.insert(name.clone(), source);
            named.extend(held.map(|held| Named { source: executors::Source::Bytes(Bytes::new()), held: Some(held) }));
        }
        let task = Task {
            submitter: context.owner,
            token: hex::encode(assignment.token.0),
            position: (assignment.task.id.task.0, assignment.of),
            program,
            args: call.args.clone(),
            env: call.env.clone(),
            stdin: self.inputs.stdin(assignment),
            inputs,
            stdout: Stdout::Output,
            checkpoint: self.inputs.checkpoint(assignment).await?,
            limits: limits(context),
        };
        Ok((task, named))
    }

    /// `None` when the attempt was stopped while its output was stored.
    async fn take_output(
        &self,
        context: &StepContext,
        assignment: &Assignment,
        stdout: Option<Content>,
        outputs: BTreeMap<String, Content>,
        folder: Option<Folder>,
        stop: &CancellationToken,
    ) -> Option<Came> {
        let place = folder.as_ref().map(|folder| folder.path().to_owned());
        let joined = match &place {
            Some(_) => run_blocking(move || executors::output(stdout, outputs, place.as_deref())).await,
            None => executors::output(stdout, outputs, None),
        };
        let content = match joined {
            Ok(content) => content,
            Err(error) => return Some(Err((ErrorClass::Host, format!("gathering its outputs: {error}")))),
        };
        let content = match content {
            Content::Bytes(bytes) if context.verified && self.faults.lies() => {
                tracing::warn!(job = %assignment.task.id.job, "fault injection: this node reports a wrong result");
                Content::Bytes(bytes.iter().chain(b"?").copied().collect())
            }
            content => content,
        };
        let taken = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            taken = outputs::keep_output(&self.stores, assignment.task, context.output, content) => Some(taken),
        };
        // A folder can be large.
        if let Some(folder) = folder {
            run_blocking(move || drop(folder)).await;
        }
        taken
    }

    /// What the quorum is told. A copy's verdict is sealed first.
    fn conclude(&self, context: &StepContext, assignment: &Assignment, came: Came) -> PendingResult {
        let (verdict, output, bytes) = match came {
            Ok((output, bytes)) if !context.verified => {
                return PendingResult::Plain(TaskResult::Done { output, bytes });
            }
            Ok((output, bytes)) => (Verdict::Output(output.digest), Some(output), bytes),
            Err((class, _)) if context.verified && class.is_vote() => (Verdict::Failed(class), None, None),
            Err((class, reason)) => {
                return PendingResult::failed(class, truncate(&reason, REASON_BYTES_MAX));
            }
        };
        let worker: PeerId = self.identity.peer();
        let statement = ResultStatement { task: assignment.task, worker, inputs: assignment.inputs, verdict };
        let receipt = ResultReceipt::sign(self.identity.signing_key(), statement);
        let nonce = Nonce(self.entropy.bytes());
        PendingResult::Sealed(Sealed { nonce, output, bytes, receipt, committed: false, shown: false })
    }
}

enum Ended {
    Succeeded,
    Cancelled,
    Failed(ErrorClass),
}

fn class(ending: &Ending) -> Ended {
    Ended::Failed(match ending.class() {
        Class::Success => return Ended::Succeeded,
        Class::Cancelled => return Ended::Cancelled,
        Class::Exit => ErrorClass::Exit,
        Class::Trap => ErrorClass::Trap,
        Class::Fuel => ErrorClass::Fuel,
        Class::Memory => ErrorClass::Memory,
        Class::Output => ErrorClass::Output,
        Class::Timeout => ErrorClass::Timeout,
        Class::Invalid => ErrorClass::Program,
        Class::Refused => ErrorClass::Refused,
        Class::Input => ErrorClass::Input,
        Class::Host => ErrorClass::Host,
    })
}

/// Whether what the program wrote last may say why it ended so.
fn is_programs_doing(class: ErrorClass) -> bool {
    use ErrorClass::{Exit, Fuel, Host, Input, Lost, Memory, Output, Program, Refused, Timeout, Trap};
    match class {
        Exit | Trap | Fuel | Memory | Output | Timeout => true,
        Program | Input | Host | Refused | Lost => false,
    }
}

fn limits(context: &StepContext) -> Limits {
    let capacity = &context.resources.capacity;
    let default = Limits::default();
    let fuel = if let Program::Wasm { fuel, .. } = context.call.program { fuel } else { None };
    let output_bytes = match (context.output, context.call.program.engine()) {
        // More would be an error anyway; a module's outputs are in memory until then.
        (OutputPlace::Inline, Engine::Wasm) => OUTPUT_BYTES_MAX as u64,
        // A program's scratch counts too, and is on disk.
        (_, Engine::Command) if capacity.disk_bytes > 0 => capacity.disk_bytes,
        _ => default.output_bytes,
    };
    Limits { time: context.timeout, memory_bytes: capacity.memory_bytes, output_bytes, fuel, ..default }
}
