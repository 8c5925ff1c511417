//! A row for each app, made of the counts that the platform tells. No terminal here.

use std::cmp::Reverse;
use std::collections::HashMap;

use clap::ValueEnum;
use model::api::{AppUsage, PlatformUsage};
use serde::Serialize;

/// What rows are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Key {
    Requests,
    Latency,
    Cpu,
    Memory,
    Errors,
}

/// What one app did and used in some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    pub tenant: String,
    pub app: String,
    pub requests: u64,
    /// Requests that failed by the app's or the platform's fault.
    pub errors: u64,
    /// None if there was no request.
    pub p50_us: Option<u64>,
    pub p99_us: Option<u64>,
    pub cpu_us: u64,
    /// The most linear memory of one invocation, since the node began.
    pub memory_peak_bytes: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// What apps did from one look to the next; from the node's beginning if there is none before.
pub fn between(before: Option<&PlatformUsage>, now: &PlatformUsage) -> Vec<Row> {
    let apps = before.into_iter().flat_map(|before| &before.apps);
    let before: HashMap<_, _> = apps.map(|app| ((&app.tenant, &app.app), app)).collect();
    let row = |app: &AppUsage| {
        let earlier = before.get(&(&app.tenant, &app.app)).copied();
        // Another node, or the same begun anew: all of it is new.
        let earlier = earlier.filter(|earlier| earlier.requests <= app.requests);
        row(earlier, app, &now.latency_bounds_us)
    };
    now.apps.iter().map(row).collect()
}

fn row(before: Option<&AppUsage>, now: &AppUsage, bounds: &[u64]) -> Row {
    let since = |count: fn(&AppUsage) -> u64| count(now).saturating_sub(before.map_or(0, count));
    let earlier = |bucket: usize| before.and_then(|it| it.latency.get(bucket).copied());
    let latency = now.latency.iter().enumerate();
    let latency: Vec<u64> = latency
        .map(|(bucket, count)| count.saturating_sub(earlier(bucket).unwrap_or(0)))
        .collect();
    Row {
        tenant: now.tenant.to_string(),
        app: now.app.to_string(),
        requests: since(|it| it.requests),
        errors: since(|it| it.app_errors + it.platform_errors),
        p50_us: quantile(&latency, bounds, now.latency_max_us, 0.5),
        p99_us: quantile(&latency, bounds, now.latency_max_us, 0.99),
        cpu_us: since(|it| it.cpu_us),
        memory_peak_bytes: now.memory_peak_bytes,
        bytes_in: since(|it| it.bytes_in),
        bytes_out: since(|it| it.bytes_out),
    }
}

/// The duration that a part of all did not exceed, as near as buckets tell, and never more than the longest of all.
fn quantile(buckets: &[u64], bounds: &[u64], longest: u64, part: f64) -> Option<u64> {
    let all: u64 = buckets.iter().sum();
    if all == 0 {
        return None;
    }
    let rank = (part * all as f64).ceil();
    let mut below = 0.0;
    for (bucket, count) in buckets.iter().enumerate() {
        let count = *count as f64;
        if count > 0.0 && below + count >= rank {
            let lower = bucket.checked_sub(1).and_then(|it| bounds.get(it).copied());
            let lower = lower.unwrap_or(0);
            // Buckets are wide: a time limit may lie at the very beginning of one.
            let upper = bounds.get(bucket).map_or(longest, |it| longest.min(*it));
            let upper = upper.max(lower);
            let within = (rank - below) / count;
            return Some(lower + ((upper - lower) as f64 * within) as u64);
        }
        below += count;
    }
    None
}

/// Most first; of what is alike, by name.
pub fn sort(rows: &mut [Row], key: Key) {
    rows.sort_by(|a, b| {
        let by = |row: &Row| match key {
            Key::Requests => row.requests,
            Key::Latency => row.p99_us.map_or(0, |us| us + 1),
            Key::Cpu => row.cpu_us,
            Key::Memory => row.memory_peak_bytes,
            Key::Errors => row.errors,
        };
        let name = |row: &Row| (row.tenant.clone(), row.app.clone());
        Reverse(by(a))
            .cmp(&Reverse(by(b)))
            .then_with(|| name(a).cmp(&name(b)))
    });
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn usage(at_ms: u64, apps: &[(&str, [u64; 4], &[u64])]) -> PlatformUsage {
        let app =
            |(name, [requests, errors, cpu_us, memory], latency): &(&str, [u64; 4], &[u64])| {
                AppUsage {
                    tenant: "alice".parse().unwrap(),
                    app: name.parse().unwrap(),
                    requests: *requests,
                    app_errors: *errors,
                    platform_errors: 0,
                    cpu_us: *cpu_us,
                    memory_peak_bytes: *memory,
                    bytes_in: 0,
                    bytes_out: 10 * requests,
                    latency: latency.to_vec(),
                    latency_sum_us: 0,
                    latency_max_us: 10_000,
                }
            };
        PlatformUsage {
            at_ms,
            latency_bounds_us: vec![100, 1000, 10_000],
            apps: apps.iter().map(app).collect(),
        }
    }

    #[test]
    fn a_row_is_what_was_counted_between_two_looks() {
        let before = usage(0, &[("shop", [10, 1, 500, 7], &[10])]);
        let now = usage(
            1000,
            &[
                ("shop", [30, 2, 900, 9], &[10, 20]),
                ("new", [1, 0, 5, 1], &[1]),
            ],
        );
        let rows = between(Some(&before), &now);
        let found: Vec<_> = rows
            .iter()
            .map(|row| {
                (
                    &*row.app,
                    row.requests,
                    row.errors,
                    row.cpu_us,
                    row.memory_peak_bytes,
                )
            })
            .collect();
        assert_eq!(found, [("shop", 20, 1, 400, 9), ("new", 1, 0, 5, 1)]);
        assert_eq!(rows[0].p50_us, Some(550));
        assert_eq!(between(None, &now)[0].requests, 30);
        // A node that has begun anew counts from nothing.
        assert_eq!(between(Some(&now), &before)[0].requests, 10);
    }

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let check = |buckets: &[u64], part: f64, expected: Option<u64>| {
            let found = quantile(buckets, &[100, 1000, 10_000], 20_000, part);
            assert_eq!(found, expected, "{buckets:?} {part}");
        };
        check(&[], 0.5, None);
        check(&[0, 0], 0.5, None);
        check(&[1], 0.99, Some(100));
        check(&[10], 0.5, Some(50));
        check(&[0, 10], 0.5, Some(550));
        check(&[98, 0, 2], 0.5, Some(51));
        check(&[98, 0, 2], 0.99, Some(5500));
        check(&[0, 0, 0, 5], 0.6, Some(16_000));
    }

    #[test]
    fn no_quantile_exceeds_the_longest_that_there_was() {
        let check = |buckets: &[u64], longest: u64, expected: u64| {
            let found = quantile(buckets, &[100, 1000, 10_000], longest, 0.99);
            assert_eq!(found, Some(expected), "{buckets:?} {longest}");
        };
        check(&[0, 0, 5], 1_001, 1_001);
        check(&[0, 0, 0, 5], 10_001, 10_001);
        check(&[3], 70, 70);
        // The longest was before: what is counted now lies below it.
        check(&[0, 5, 0], 5_000, 1_000);
    }

    #[test]
    fn rows_are_sorted_by_what_was_asked_for() {
        let now = usage(
            0,
            &[
                ("a", [1, 3, 20, 5], &[1]),
                ("b", [2, 1, 30, 4], &[0, 2]),
                ("c", [2, 2, 10, 6], &[]),
            ],
        );
        let check = |key: Key, expected: &str| {
            let mut rows = between(None, &now);
            sort(&mut rows, key);
            let names: String = rows.iter().map(|row| row.app.as_str()).collect();
            assert_eq!(names, expected, "{key:?}");
        };
        check(Key::Requests, "bca");
        check(Key::Latency, "bac");
        check(Key::Cpu, "bac");
        check(Key::Memory, "cab");
        check(Key::Errors, "acb");
    }
}
