//! Families as Prometheus text (OpenMetrics).

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::PREFIX;
use super::families::{Family, Values, bounds_seconds};

/// Families as Prometheus text (OpenMetrics).
pub fn text(families: Vec<Family>) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Text(families)));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a string takes all text");
    text
}

/// Families as Prometheus reads them.
#[derive(Debug)]
struct Text(Vec<Family>);

impl Collector for Text {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|family| encode_family(&mut encoder, family))
    }
}

fn encode_family(encoder: &mut DescriptorEncoder<'_>, family: &Family) -> fmt::Result {
    let kind = match &family.values {
        Values::Counted(_) | Values::CountedSeconds(_) => MetricType::Counter,
        Values::Present(_) => MetricType::Gauge,
        Values::Durations(_) => MetricType::Histogram,
    };
    let Family { name, help, .. } = family;
    let mut metric = encoder.encode_descriptor(name, help, family.unit.as_ref(), kind)?;
    match &family.values {
        Values::Counted(counts) => counts.iter().try_for_each(|(labels, count)| {
            if labels.is_empty() {
                return metric.encode_counter::<NoLabelSet, u64, f64>(count, None);
            }
            let mut one = metric.encode_family(labels)?;
            one.encode_counter::<NoLabelSet, u64, f64>(count, None)
        }),
        Values::CountedSeconds(counts) => counts.iter().try_for_each(|(labels, seconds)| {
            let mut one = metric.encode_family(labels)?;
            one.encode_counter::<NoLabelSet, f64, f64>(seconds, None)
        }),
        Values::Present(values) => values.iter().try_for_each(|(labels, value)| {
            if labels.is_empty() {
                return metric.encode_gauge(value);
            }
            metric.encode_family(labels)?.encode_gauge(value)
        }),
        Values::Durations(durations) => {
            let bounds = bounds_seconds().chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(durations.buckets).collect();
            let sum = durations.sum_us as f64 / 1e6;
            metric.encode_histogram::<NoLabelSet>(sum, durations.count, &buckets, None)
        }
    }
}
