//! Users of the API: one owner that fills a quorum and its workers, and modules that are costly to compile.

use std::time::{Duration, Instant};

use quorate_api::{SubmitInfo, SubmitRequest};

use crate::arena::{Arena, Fault};

/// An owner beside one that fills everything has its job accepted and run within this.
const RUN_MAX: Duration = Duration::from_secs(5);

/// Tasks of one job, the most that a specification may ask for, and jobs of them.
const TASKS: u32 = 65_536;
const JOBS: usize = 4;

/// Triggers that fire ten times a second.
const TRIGGERS: usize = 60;

/// What a node and its children may take while a module is compiled.
const COMPILE_GROWTH_MAX: u64 = 1 << 30;

/// A bomb ends by then, and an honest module starts beside it within the other.
const BOMB_MAX: Duration = Duration::from_secs(40);
const BESIDE_MAX: Duration = Duration::from_secs(10);

fn hello(more: &str) -> String {
    // Keys of the table at the top come before its first subtable.
    format!("{more}\n{}", include_str!("../../../../examples/hello.toml"))
}

/// One owner submits a quarter of a million tasks that nobody can run, and sixty triggers that fire ten times a second,
/// all in one quorum. Another owner's jobs in that quorum are accepted and run.
pub async fn fill_quorum(arena: &mut Arena) -> Result<(), Fault> {
    let (first, quorum) = (arena.api(1)?, Some(arena.quorum));
    let mut accepted = 0;
    let nobody = hello("map.count = 65536\nresources.labels = { nobody = \"has-it\" }");
    for _ in 0..JOBS {
        let request = SubmitRequest { spec: nobody.clone(), quorum, ..SubmitRequest::default() };
        accepted += u32::from(first.post::<_, SubmitInfo>("/v1/jobs", &request).await.is_ok()) * TASKS;
    }
    let often = hello("trigger.every = \"100ms\"\ntrigger.overlap = \"allow\"");
    let mut triggers = 0;
    for _ in 0..TRIGGERS {
        let request = SubmitRequest { spec: often.clone(), quorum, ..SubmitRequest::default() };
        triggers += usize::from(first.post::<_, SubmitInfo>("/v1/jobs", &request).await.is_ok());
    }
    arena.note_text(format!("the first owner has {accepted} tasks and {triggers} triggers"));
    for round in 0..5 {
        let began = Instant::now();
        let ran = arena.run_job_in(quorum, 4_000_000 + round, 2 * RUN_MAX).await;
        let took = began.elapsed();
        arena.require(ran && took <= RUN_MAX, || format!("a job of another owner: ran {ran}, took {took:?}"));
    }
    Ok(())
}

/// As a binary some kilobytes: every local may change in every loop.
fn bomb(locals: usize, loops: usize) -> String {
    let module = format!(
        "(module (memory (export \\\"memory\\\") 1) (func (export \\\"_start\\\") (local{}) {} {} {}))",
        " i32".repeat(locals),
        "loop ".repeat(loops),
        (0..locals).map(|n| format!("local.get {n} i32.const 1 i32.add local.set {n} ")).collect::<String>(),
        "local.get 0 br_if 0 end ".repeat(loops),
    );
    format!(
        "name = \"bomb\"\nengine = \"wasm\"\noutput = \"inline\"\nresources.memory = \"8 MiB\"\n\
         module = {{ inline = \"{module}\" }}\n"
    )
}

/// Resident memory of a process and of all that it started.
fn tree_rss(pid: u32) -> u64 {
    let own = quorate_testnet::process::rss_bytes(pid).unwrap_or(0);
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    own + children.into_iter().map(tree_rss).sum::<u64>()
}

/// Two bombs at once; the nodes and their children stay small, an honest module runs beside them, and each bomb ends.
pub async fn compile_bombs(arena: &mut Arena) -> Result<(), Fault> {
    let api = arena.api(1)?;
    let pids: Vec<(usize, u32)> =
        arena.testnet.indices().into_iter().filter_map(|node| Some((node, arena.pid(node)?))).collect();
    let before: u64 = pids.iter().map(|(_, pid)| tree_rss(*pid)).sum();
    let mut bombs = Vec::new();
    for (locals, loops) in [(2_000, 300), (5_000, 1_000)] {
        let request = SubmitRequest { spec: bomb(locals, loops), ..SubmitRequest::default() };
        match api.post::<_, SubmitInfo>("/v1/jobs", &request).await {
            Ok(submitted) => bombs.push(submitted.job),
            // Its structure alone may be reason enough.
            Err(error) => arena.note_text(format!("a bomb was refused: {error}")),
        }
    }
    let mut most = 0u64;
    let began = Instant::now();
    let ran = arena.run_job(5_000_000, BESIDE_MAX).await;
    arena.require(ran, || format!("an honest job did not run within {BESIDE_MAX:?} beside the bombs"));
    let mut left = bombs;
    while !left.is_empty() && began.elapsed() < BOMB_MAX {
        most = most.max(pids.iter().map(|(_, pid)| tree_rss(*pid)).sum::<u64>());
        let mut going = Vec::new();
        for job in left {
            let info: quorate_api::JobInfo = api.get(&format!("/v1/jobs/{job}")).await?;
            if !info.state.is_final() {
                going.push(job);
            }
        }
        left = going;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    arena.require(left.is_empty(), || format!("{} bombs go on after {BOMB_MAX:?}", left.len()));
    let grown = most.saturating_sub(before);
    arena.require(grown <= COMPILE_GROWTH_MAX, || format!("nodes and their children grew by {} MiB", grown >> 20));
    arena.note_text(format!("nodes and their children grew by {} MiB", grown >> 20));
    for job in left {
        let _ = api.post::<_, serde_json::Value>(&format!("/v1/jobs/{job}/cancel"), &serde_json::json!({})).await;
    }
    Ok(())
}
