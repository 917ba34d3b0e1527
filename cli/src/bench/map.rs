//! `bench map`: one wide job whose tasks do nothing, from its submit to its end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quorate_api::{JobInfo, NOTHING_WAT, RunState, SubmitInfo, SubmitRequest};
use quorate_protocols::task::limits::TASKS_PER_STEP_MAX;
use quorate_testnet::Testnet;

use super::{at_primary, median};
use crate::bench::report::MapBench;
use crate::{Common, Failure, print, print_json, print_to_stderr, table};

/// How long one run may take.
const PATIENCE: Duration = Duration::from_secs(600);

pub async fn run(common: &Common, testnet: &Testnet, tasks: u32, runs: u32) -> Result<(), Failure> {
    if !(1..=TASKS_PER_STEP_MAX).contains(&tasks) || runs == 0 {
        return Err(Failure::usage(format!("--tasks must be 1 to {TASKS_PER_STEP_MAX}, and --runs at least 1")));
    }
    let (quorum, client) = at_primary(common, testnet).await?;
    let request = |tasks: u32| SubmitRequest {
        spec: format!(
            "name = \"bench map\"\nengine = \"wasm\"\nmodule = {{ inline = '''{NOTHING_WAT}''' }}\n\
             output = \"inline\"\nmap.count = {tasks}\nresources.memory = \"4 MiB\"\n"
        ),
        file: None,
        files: BTreeMap::new(),
        set: BTreeMap::new(),
        job: None,
        key: None,
        quorum: Some(quorum),
    };
    let mut rates = Vec::new();
    // The first run finds workers and has the module compiled; it is not counted.
    for run in 0..=runs {
        let tasks = if run == 0 { tasks.min(100) } else { tasks };
        let began = Instant::now();
        let SubmitInfo { job, .. } = client.post("/v1/jobs", &request(tasks)).await?;
        loop {
            let info: JobInfo = client.get(&format!("/v1/jobs/{job}/wait?timeout_ms=30000")).await?;
            match info.state {
                RunState::Succeeded => break,
                state if state.is_final() || began.elapsed() > PATIENCE => {
                    let why = info.why.unwrap_or_default();
                    return Err(Failure::failed(format!("job {job} is {state} after {:?}: {why}", began.elapsed())));
                }
                _ => (),
            }
        }
        if run > 0 {
            let rate = f64::from(tasks) / began.elapsed().as_secs_f64();
            print_to_stderr(format!("run {run}: {rate:.0} tasks per second"));
            rates.push(rate);
        }
    }
    let result = MapBench { tasks, tasks_per_s: median(&rates), runs_tasks_per_s: rates };
    if common.json {
        return print_json(&result);
    }
    let row = vec![result.tasks.to_string(), format!("{:.0}", result.tasks_per_s)];
    print(table(&["tasks", "tasks/s"], [row]))
}
