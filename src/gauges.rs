//! Gauges that are read when somebody asks for the metrics: how full a queue is, how much an actor keeps.
//!
//! What is counted as it happens is a counter of the registry; what somebody owns anyway is read here, so that no
//! second number beside it can go wrong.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc::{Sender, WeakSender};

/// Registers a gauge that `read` gives the value of.
pub fn register(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    read: impl Fn() -> u64 + Send + Sync + 'static,
) {
    registry.register_collector(Box::new(Sampled { name, help, label: None, read: move || vec![("", read())] }));
}

/// Registers a gauge with one value for each value of `label`.
pub fn register_by(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    label: &'static str,
    read: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
) {
    registry.register_collector(Box::new(Sampled { name, help, label: Some(label), read }));
}

/// Messages that wait in a channel. Of one that is closed, none. Watching a channel does not keep it open.
pub fn depth<T>(queue: &WeakSender<T>) -> u64 {
    queue.upgrade().map_or(0, |queue| waiting(&queue))
}

/// As [`depth`], for one who sends to the channel anyway. Counts slots that senders have reserved.
pub fn waiting<T>(queue: &Sender<T>) -> u64 {
    (queue.max_capacity() - queue.capacity()) as u64
}

struct Sampled<F> {
    name: &'static str,
    help: &'static str,
    label: Option<&'static str>,
    read: F,
}

impl<F> fmt::Debug for Sampled<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl<F: Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static> Collector for Sampled<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        let rows = (self.read)();
        match self.label {
            None => rows.into_iter().try_for_each(|(_, value)| metric.encode_gauge(&value)),
            Some(label) => rows
                .into_iter()
                .try_for_each(|(of, value)| ConstGauge::new(value).encode(metric.encode_family(&[(label, of)])?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::metrics::value;

    #[tokio::test]
    async fn a_gauge_follows_what_it_reads() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<u32>(4);
        let mut registry = Registry::default();
        let (queue, labelled) = (sender.downgrade(), sender.downgrade());
        register(&mut registry, "queued", "Messages that wait", move || depth(&queue));
        register_by(&mut registry, "queued_by", "Messages that wait", "queue", move || {
            vec![("one", depth(&labelled)), ("other", 7)]
        });
        assert_eq!(value(&registry, "queued"), 0.0);
        sender.send(1).await.unwrap();
        sender.send(2).await.unwrap();
        assert_eq!(value(&registry, "queued"), 2.0);
        assert_eq!(value(&registry, "queued_by{queue=\"one\"}"), 2.0);
        assert_eq!(value(&registry, "queued_by{queue=\"other\"}"), 7.0);
        receiver.recv().await.unwrap();
        assert_eq!(value(&registry, "queued"), 1.0);
        // Nobody sends any more: it is closed, though its depth is still asked for.
        drop(sender);
        assert_eq!(receiver.recv().await, Some(2));
        assert_eq!(receiver.recv().await, None);
        assert_eq!(value(&registry, "queued"), 0.0);
    }
}
