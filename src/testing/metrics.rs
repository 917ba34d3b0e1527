//! Reads what a registry would tell Prometheus.

use prometheus_client::registry::Registry;

/// The value of one line, named with its labels as it is written; of a histogram, `_count` or `_sum` behind the name.
pub(crate) fn value(registry: &Registry, name: &str) -> f64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).expect("a registry can be written");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().expect("a number")
}
