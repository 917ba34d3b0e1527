//! Modules that other compilers made run unchanged. Their sources and how they were built: `tests/fixtures/modules`.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_node::executors::{Ending, Executor, Source};
use tokio_util::sync::CancellationToken;

use crate::kit::{TestHost, bytes, content, deterministic, in_node, modules, stdout, wasm};

const C: &[u8] = include_bytes!("../fixtures/modules/probe_c.wasm");
const ASSEMBLYSCRIPT: &[u8] = include_bytes!("../fixtures/modules/probe_assemblyscript.wasm");

fn given(mut task: quorate_node::executors::Task) -> quorate_node::executors::Task {
    task.args = vec!["one".to_owned(), "two words".to_owned()];
    task.env = BTreeMap::from([("GREETING".to_owned(), "hei".to_owned())]);
    task.stdin = bytes("first\nsecond\n");
    task.inputs = BTreeMap::from([("words".to_owned(), Source::Bytes("a b\nc\n".into()))]);
    task
}

#[test]
fn a_module_from_c_finds_its_files_and_only_those() {
    in_node(async {
        let modules = modules();
        for task in [wasm(C), deterministic(C, 1)] {
            let host = Arc::new(TestHost::default());
            let finished = modules.run(given(task), host.clone(), CancellationToken::new()).await;
            let expected = "arg one\narg two words\nenv hei\nstdin first\nstdin second\ninput a b\ninput c\nsize 6\n\
                            entry words\nmade 7\nforbidden closed closed closed\ntime passes\n";
            assert_eq!(stdout(&finished), expected, "{}", finished.logs.stderr.text());
            assert_eq!(finished.ending, Ending::Succeeded);
            assert_eq!(finished.outputs.keys().collect::<Vec<_>>(), ["result"]);
            assert_eq!(content(&finished.outputs["result"]), b"from C\n");
            assert_eq!(finished.logs.stderr.text(), "done in C\n");
            assert_eq!(*host.progress.lock().unwrap(), [(500, "half way".to_owned())]);
            assert_eq!(*host.checkpoints.lock().unwrap(), ["half"]);
        }
    });
}

#[test]
fn a_module_from_assemblyscript_runs() {
    in_node(async {
        let modules = modules();
        let finished = crate::kit::run(&modules, given(wasm(ASSEMBLYSCRIPT))).await;
        let expected = "arg one\narg two words\nenv hei\nstdin FIRST\nSECOND\ntime passes\nchance given\nmade 20000\n";
        assert_eq!(stdout(&finished), expected, "{}", finished.logs.stderr.text());
        assert_eq!(finished.logs.stderr.text(), "done in AssemblyScript\n");
    });
}
