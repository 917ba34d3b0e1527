//! `bench map`: one wide job whose tasks do nothing, from its submit to its end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quorate_api::{JobInfo, RunState, SubmitInfo, SubmitRequest};
use quorate_protocols::task::limits::TASKS_PER_STEP_MAX;
use quorate_testnet::Testnet;

use crate::Progress;
use crate::connection::{CallError, Connection, Target};
use crate::error::BenchError;
use crate::figures::Spread;
use crate::jobs::spec;
use crate::processes::Processes;
use crate::report::MapRow;
use crate::roles::Roles;
use crate::through::Through;

/// How long one run may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Tasks of the run that is not counted: it finds workers, and has the module compiled.
const WARM_UP_TASKS: u32 = 100;

/// What is measured.
#[derive(Clone, Debug)]
pub struct MapPlan {
    pub through: Through,
    pub tasks: u32,
    pub runs: usize,
}

/// Measures on this thread: see [`crate::on_one_thread`].
pub async fn map(testnet: &Testnet, plan: &MapPlan, progress: Progress) -> Result<MapRow, BenchError> {
    let MapPlan { through, tasks, runs } = *plan;
    if !(1..=TASKS_PER_STEP_MAX).contains(&tasks) {
        return Err(BenchError::Plan(format!("--tasks must be 1 to {TASKS_PER_STEP_MAX}")));
    }
    let roles = Roles::find(testnet).await?;
    let node = roles.nodes(through)?[0];
    let processes = Processes::of_nodes(testnet);
    let mut connection = Connection::new(Target::of_node(testnet, node)?);
    run(&mut connection, &roles, tasks.min(WARM_UP_TASKS)).await?;
    let (mut rates, mut cpu_ms) = (Vec::new(), Vec::<BTreeMap<String, f64>>::new());
    for number in 1..=runs {
        let before = processes.cpu_times();
        let took = run(&mut connection, &roles, tasks).await?;
        cpu_ms.push(processes.cpu_times().ms_per_operation(&before, tasks.into()));
        let rate = f64::from(tasks) / took.as_secs_f64();
        progress(&format!("map of {tasks} through node {node}, run {number}/{runs}: {rate:.0} tasks per second"));
        rates.push(rate);
    }
    Ok(MapRow {
        through,
        node,
        quorum: roles.quorum,
        tasks,
        runs,
        in_process: false,
        tasks_per_s: Spread::of(&rates),
        cpu_ms: Spread::of_each(&cpu_ms),
    })
}

/// One job, until it has ended.
async fn run(connection: &mut Connection, roles: &Roles, tasks: u32) -> Result<Duration, CallError> {
    let request = SubmitRequest {
        spec: spec(&format!("map.count = {tasks}\n")),
        quorum: Some(roles.quorum),
        ..SubmitRequest::default()
    };
    let began = Instant::now();
    let SubmitInfo { job, .. } = connection.post("/v1/jobs", &request).await?.json()?;
    loop {
        let info: JobInfo = connection.get(&format!("/v1/jobs/{job}/wait?timeout_ms=30000")).await?.json()?;
        match info.state {
            RunState::Succeeded => return Ok(began.elapsed()),
            state if state.is_final() || began.elapsed() > PATIENCE => {
                let why = info.why.unwrap_or_default();
                return Err(CallError::Outcome {
                    what: format!("job {job} is {state} after {:?}: {why}", began.elapsed()),
                });
            }
            _ => (),
        }
    }
}
