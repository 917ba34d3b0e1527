//! Values of arguments: how sizes, ranges and the like are written. Errors say what to write instead.

use quorate_api::{Kind, NEXT_MAX};

/// As many as a node shows.
pub(super) fn next_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=NEXT_MAX).contains(&count) => Ok(count),
        _ => Err(format!("{text:?} is not a number from 1 to {NEXT_MAX}")),
    }
}

/// `NAME=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not of the form NAME=VALUE")),
    }
}

pub(super) fn kind(text: &str) -> Result<Kind, String> {
    Kind::ALL.iter().copied().find(|kind| kind.name() == text).ok_or_else(|| {
        let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        format!("{text:?} is not a kind of job: write {}", known.join(" or "))
    })
}

/// `256MiB`, `1GB`, `4096`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(format!("{text:?} is not a size: write 256MiB, 1GB or a number of bytes")),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("{text:?} is not a size: write 256MiB, 1GB or a number of bytes"))
}

pub(super) fn range(text: &str) -> Result<String, String> {
    let fault = || format!("{text:?} is not a range: write FIRST-LAST, FIRST- or -COUNT");
    let (first, last) = text.split_once('-').ok_or_else(fault)?;
    // What the node will make of it, before anybody is asked.
    let number = |part: &str| part.is_empty() || quorate_api::range::number(part).is_some();
    if !number(first) || !number(last) || (first.is_empty() && last.is_empty()) {
        return Err(fault());
    }
    match quorate_api::range::parse(&format!("bytes={text}")) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("{text:?} ends before it begins: write FIRST-LAST with LAST not below FIRST")),
    }
}
