//! The word count of `examples/wordcount` against a plain count, over texts cut anywhere.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_node::executors::wasm::WasmExecutor;
use quorate_node::executors::{Class, Ending};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::kit::{bytes, content, in_node, modules, run, wasm};

const MODULE: &str = include_str!("../../examples/wordcount/wordcount.wat");

/// What a word is, said once more and plainly.
fn counted(text: &[u8]) -> Vec<u8> {
    let in_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'\'' || *byte >= 128;
    let mut counts: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for word in text.split(|byte| !in_word(byte)).filter(|word| !word.is_empty()) {
        *counts.entry(word.to_ascii_lowercase()).or_default() += 1;
    }
    let line = |(word, count): (&Vec<u8>, &u64)| [word, format!(" {count}\n").as_bytes()].concat();
    counts.iter().flat_map(line).collect()
}

async fn step(modules: &WasmExecutor, mode: Option<&str>, input: impl Into<Bytes>) -> Vec<u8> {
    let mut task = wasm(MODULE);
    task.args = mode.map(str::to_owned).into_iter().collect();
    task.stdin = bytes(input);
    let finished = run(modules, task).await;
    assert_eq!(finished.ending, Ending::Succeeded, "{mode:?}: {}", finished.logs.stderr.text());
    content(finished.stdout.as_ref().unwrap())
}

/// Maps each segment, reduces them in neighbouring pairs, and finishes.
async fn in_segments(modules: &WasmExecutor, segments: &[&[u8]]) -> Vec<u8> {
    let mut parts = Vec::new();
    for segment in segments {
        parts.push(step(modules, Some("map"), segment.to_vec()).await);
    }
    let mut joined = Vec::new();
    for pair in parts.chunks(2) {
        joined.extend(step(modules, Some("reduce"), pair.concat()).await);
    }
    step(modules, Some("finish"), joined).await
}

fn text(random: &mut ChaCha12Rng, bytes: usize) -> Vec<u8> {
    // Few letters and many separators, so that borders fall on every kind of place; some words repeat, some are new.
    let alphabet = b"aAbB'9\xc3\xa4  \n.,<=>";
    (0..bytes).map(|_| alphabet[random.next_u32() as usize % alphabet.len()]).collect()
}

#[test]
fn words_are_counted_once_wherever_the_text_is_cut() {
    in_node(async {
        let modules = modules();
        let mut random = ChaCha12Rng::seed_from_u64(4);
        for round in 0..40u32 {
            let size = [0, 1, 5, 40, 300][round as usize % 5];
            let text = text(&mut random, size);
            let mut cuts: Vec<usize> =
                (0..random.next_u32() % 6).map(|_| random.next_u32() as usize % (size + 1)).collect();
            cuts.extend([0, size]);
            cuts.sort_unstable();
            let segments: Vec<&[u8]> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            let shown = String::from_utf8_lossy(&text).into_owned();
            assert_eq!(in_segments(&modules, &segments).await, counted(&text), "{shown:?} cut at {cuts:?}");
            assert_eq!(step(&modules, None, text.clone()).await, counted(&text), "{shown:?}");
        }
    });
}

/// Goal: texts larger than every buffer, more words than the first table holds, words longer than a buffer.
#[test]
fn large_texts_and_long_words_are_counted() {
    in_node(async {
        let modules = modules();
        let mut large: Vec<u8> =
            (0..40_000u32).flat_map(|n| format!("w{} W{} ", n % 9973, n % 7).into_bytes()).collect();
        large.extend([b'x'; 200_000]);
        large.extend(b" end");
        let third = large.len() / 3;
        // The long word lies across the last two borders.
        let segments = [&large[..third], &large[third..large.len() - 150_000], &large[large.len() - 150_000..]];
        let found = in_segments(&modules, &segments).await;
        assert!(found == counted(&large), "{} bytes, not {}", found.len(), counted(&large).len());
    });
}

#[test]
fn what_is_no_part_is_refused() {
    in_node(async {
        let modules = modules();
        for (mode, input) in [("reduce", "hello"), ("finish", "<a\n>b\nword 0\n.\n"), ("finish", "<a\n>b\n"), ("x", "")]
        {
            let mut task = wasm(MODULE);
            (task.args, task.stdin) = (vec![mode.to_owned()], bytes(input));
            let finished = run(&modules, task).await;
            assert_eq!(finished.ending, Ending::Exited { code: 2 }, "{input:?}");
            assert!(finished.logs.stderr.text().starts_with("wordcount: "));
        }
        let mut task = wasm(MODULE);
        task.limits.memory_bytes = 1 << 20;
        task.stdin = bytes((0..200_000u32).flat_map(|n| format!("{n} ").into_bytes()).collect::<Vec<u8>>());
        assert_eq!(run(&modules, task).await.ending.class(), Class::Memory);
    });
}
