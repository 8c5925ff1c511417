//! The counts as metrics of OpenTelemetry: cumulative, by the names that Prometheus reads them by.

use bytes::Bytes;
use model::limits;
use model::pipe::Histogram as Durations;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use super::{scope, text};
use crate::supervisor::metrics::{Family, Labels, PREFIX, Unit, Values, bounds_seconds};

/// From when on and until when everything was counted, in nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy)]
struct Period {
    begun_ns: u64,
    now_ns: u64,
}

/// The bodies that say all of these families, each with at most [`limits::OTLP_POINTS`].
pub fn requests(
    families: Vec<Family>,
    resource: &Resource,
    begun_ns: u64,
    now_ns: u64,
) -> Vec<Bytes> {
    let most = limits::OTLP_POINTS.default as usize;
    let period = Period { begun_ns, now_ns };
    let (mut bodies, mut metrics, mut count) = (Vec::new(), Vec::new(), 0);
    for family in families {
        for (metric, points) in cut(family, most, period) {
            if count + points > most {
                bodies.push(body(std::mem::take(&mut metrics), resource));
                count = 0;
            }
            metrics.push(metric);
            count += points;
        }
    }
    bodies.push(body(metrics, resource));
    bodies
}

fn body(metrics: Vec<Metric>, resource: &Resource) -> Bytes {
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource.clone()),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope()),
                metrics,
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    };
    request.encode_to_vec().into()
}

/// A family as one metric, or as several with at most so many points; each with its number of points.
fn cut(family: Family, most: usize, period: Period) -> Vec<(Metric, usize)> {
    let whole = |data: Data, points: usize| {
        let metric = Metric {
            name: format!("{PREFIX}_{}", family.name),
            description: family.help.into(),
            unit: unit(family.unit.as_ref()).into(),
            data: Some(data),
            ..Metric::default()
        };
        (metric, points)
    };
    let parts = |points: Vec<NumberDataPoint>, data: fn(Vec<NumberDataPoint>) -> Data| {
        let parts = points.chunks(most);
        parts
            .map(|points| whole(data(points.to_vec()), points.len()))
            .collect()
    };
    let counted = |points| parts(points, sum);
    match family.values {
        Values::Counted(counts) => {
            let counts = counts.into_iter();
            let points = counts.map(|(labels, count)| point(labels, whole_number(count), period));
            counted(points.collect())
        }
        Values::CountedSeconds(counts) => {
            let counts = counts.into_iter();
            let points =
                counts.map(|(labels, seconds)| point(labels, Value::AsDouble(seconds), period));
            counted(points.collect())
        }
        Values::Present(values) => {
            let values = values.into_iter();
            let points = values.map(|(labels, value)| NumberDataPoint {
                // Nothing was counted since any time.
                start_time_unix_nano: 0,
                ..point(labels, whole_number(value), period)
            });
            parts(points.collect(), |data_points| {
                Data::Gauge(Gauge { data_points })
            })
        }
        Values::Durations(durations) => vec![whole(histogram(&durations, period), 1)],
    }
}

fn sum(data_points: Vec<NumberDataPoint>) -> Data {
    Data::Sum(Sum {
        data_points,
        aggregation_temporality: AggregationTemporality::Cumulative.into(),
        is_monotonic: true,
    })
}

fn histogram(durations: &Durations, period: Period) -> Data {
    Data::Histogram(Histogram {
        data_points: vec![HistogramDataPoint {
            start_time_unix_nano: period.begun_ns,
            time_unix_nano: period.now_ns,
            count: durations.count,
            sum: Some(durations.sum_us as f64 / 1e6),
            bucket_counts: durations.buckets.to_vec(),
            explicit_bounds: bounds_seconds().collect(),
            ..HistogramDataPoint::default()
        }],
        aggregation_temporality: AggregationTemporality::Cumulative.into(),
    })
}

fn point(labels: Labels, value: Value, period: Period) -> NumberDataPoint {
    let labels = labels.into_iter();
    let attributes: Vec<KeyValue> = labels.map(|(name, value)| text(name, value)).collect();
    NumberDataPoint {
        attributes,
        start_time_unix_nano: period.begun_ns,
        time_unix_nano: period.now_ns,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

/// What is above 2⁶³ - 1 is said to be that.
fn whole_number(count: u64) -> Value {
    Value::AsInt(i64::try_from(count).unwrap_or(i64::MAX))
}

/// A unit as UCUM writes it. A number of things has none: `1` is for ratios, and readers name them so.
fn unit(unit: Option<&Unit>) -> &str {
    match unit {
        Some(Unit::Seconds) => "s",
        Some(Unit::Bytes) => "By",
        Some(other) => other.as_str(),
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &Bytes) -> Vec<Metric> {
        let mut request = ExportMetricsServiceRequest::decode(&body[..]).unwrap();
        request
            .resource_metrics
            .remove(0)
            .scope_metrics
            .remove(0)
            .metrics
    }

    fn family(name: &'static str, unit: Option<Unit>, values: Values) -> Family {
        Family {
            name,
            help: "",
            unit,
            values,
        }
    }

    #[test]
    fn counts_gauges_and_durations_have_their_form() {
        let mut durations = Durations::default();
        durations.count(150);
        let labels = || vec![("app", "shop".to_owned())];
        let families = vec![
            family("requests", None, Values::Counted(vec![(labels(), 7)])),
            family(
                "app_cpu",
                Some(Unit::Seconds),
                Values::CountedSeconds(vec![(labels(), 0.5)]),
            ),
            family("workers", None, Values::Present(vec![(Labels::new(), 2)])),
            family(
                "request_duration",
                Some(Unit::Seconds),
                Values::Durations(durations),
            ),
        ];
        let bodies = requests(families, &Resource::default(), 10, 20);
        assert_eq!(bodies.len(), 1);
        let metrics = read(&bodies[0]);
        let names: Vec<_> = metrics.iter().map(|m| (&*m.name, &*m.unit)).collect();
        let expected = [
            ("midge_requests", ""),
            ("midge_app_cpu", "s"),
            ("midge_workers", ""),
            ("midge_request_duration", "s"),
        ];
        assert_eq!(names, expected);
        let Some(Data::Sum(sum)) = &metrics[0].data else {
            panic!("{metrics:?}");
        };
        let point = &sum.data_points[0];
        assert_eq!(
            (point.value, point.start_time_unix_nano),
            (Some(Value::AsInt(7)), 10)
        );
        assert_eq!(point.attributes, [text("app", "shop")]);
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
        let Some(Data::Histogram(histogram)) = &metrics[3].data else {
            panic!("{metrics:?}");
        };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (1, Some(0.00015)));
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        assert_eq!(
            (point.bucket_counts[4], point.explicit_bounds[4]),
            (1, 0.0002)
        );
    }

    #[test]
    fn many_points_go_in_several_bodies_and_none_is_lost() {
        let most = limits::OTLP_POINTS.default as usize;
        let counts = |number: usize| {
            let labels = |i: usize| vec![("app", i.to_string())];
            Values::Counted((0..number).map(|i| (labels(i), 1)).collect())
        };
        let families = vec![
            family("a", None, counts(most / 2)),
            family("b", None, counts(2 * most + 3)),
            family("c", None, Values::Present(vec![(Labels::new(), 1)])),
        ];
        let bodies = requests(families, &Resource::default(), 0, 0);
        let points: Vec<usize> = bodies
            .iter()
            .map(|body| {
                let metrics = read(body).into_iter();
                let points = metrics.map(|metric| match metric.data.unwrap() {
                    Data::Sum(sum) => sum.data_points.len(),
                    _ => 1,
                });
                points.sum()
            })
            .collect();
        assert_eq!(points, [most / 2, most, most, 4]);
    }
}
