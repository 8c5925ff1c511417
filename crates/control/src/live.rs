//! How far a change has come: what the nodes say of themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use distribution::NodeReport;
use model::api::Live;
use model::{Generation, LimitsRevision, Millis, SecretsRevision, limits};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::control::Platform;

/// What a node is to reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mark {
    Generation(Generation),
    Secrets(SecretsRevision),
    Limits(LimitsRevision),
}

/// Waits until every node has reached `mark` and says how many have, after `wait` or when the platform stops at the latest.
pub(crate) async fn reached(
    platform: &Platform,
    mark: Mark,
    started: Instant,
    wait: Millis,
) -> Live {
    let wait = wait.min(limits::API_WAIT.default).duration();
    let reports = platform.distribution.reports();
    let waited = self::wait(reports.clone(), mark, started, wait);
    match platform.closing().run_until_cancelled(waited).await {
        Some(live) => live,
        None => count(&reports.borrow(), mark, started),
    }
}

/// Waits until every node that reports has reached `mark`, until one refuses it, or until `deadline`.
async fn wait(
    mut reports: watch::Receiver<BTreeMap<String, NodeReport>>,
    mark: Mark,
    started: Instant,
    deadline: Duration,
) -> Live {
    let before = refusals(&reports.borrow_and_update(), mark);
    let all = async {
        loop {
            {
                let reports = reports.borrow_and_update();
                let settled = reports.values().all(|node| mark.is_reached_by(node));
                if settled || refusals(&reports, mark) != before {
                    return;
                }
            }
            if reports.changed().await.is_err() {
                return;
            }
        }
    };
    // Out of time: what was reached by now is the honest answer.
    let _ = tokio::time::timeout_at(started + deadline, all).await;
    count(&reports.borrow(), mark, started)
}

/// What holds now.
pub(crate) fn count(reports: &BTreeMap<String, NodeReport>, mark: Mark, started: Instant) -> Live {
    let nodes = reports.values().filter(|node| mark.is_reached_by(node));
    Live {
        nodes: nodes.count() as u32,
        of: reports.len() as u32,
        elapsed_ms: started.elapsed().as_millis() as u64,
        refusals: reports
            .values()
            .flat_map(|node| mark.refused_by(node))
            .cloned()
            .collect(),
    }
}

impl Mark {
    fn is_reached_by(self, node: &NodeReport) -> bool {
        match self {
            Self::Generation(generation) => node.status.generation >= generation,
            Self::Secrets(revision) => node.status.secrets >= revision,
            Self::Limits(revision) => node.status.limits >= revision,
        }
    }

    /// What the node says against it: neither a secret nor a limit can be refused.
    fn refused_by(self, node: &NodeReport) -> &[String] {
        match self {
            Self::Generation(_) => &node.refusals,
            Self::Secrets(_) | Self::Limits(_) => &[],
        }
    }
}

/// What nodes refuse that have not reached `mark`.
fn refusals(reports: &BTreeMap<String, NodeReport>, mark: Mark) -> Vec<String> {
    reports
        .values()
        .filter(|node| !mark.is_reached_by(node))
        .flat_map(|node| mark.refused_by(node))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use model::api::NodeStatus;

    use super::*;

    fn report(name: &str, generation: Generation, refusals: &[&str]) -> NodeReport {
        NodeReport {
            status: NodeStatus {
                name: name.into(),
                generation,
                secrets: generation,
                limits: generation,
                workers: 1,
                worker_restarts: 0,
                listen: String::new(),
            },
            refusals: refusals.iter().map(|text| text.to_string()).collect(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn live_counts_the_nodes_that_serve_and_waits_for_the_rest() {
        let wait_5s = |reports| {
            wait(
                reports,
                Mark::Generation(7),
                Instant::now(),
                Duration::from_secs(5),
            )
        };
        let (send, reports) = watch::channel(BTreeMap::new());
        assert_eq!(wait_5s(reports.clone()).await.of, 0);

        let set = |report: NodeReport| {
            send.send_modify(|all| drop(all.insert(report.status.name.clone(), report)))
        };
        set(report("a", 7, &[]));
        set(report("b", 6, &[]));
        let live = wait_5s(reports.clone()).await;
        assert_eq!((live.nodes, live.of, live.elapsed_ms), (1, 2, 5000));

        let waiting = tokio::spawn(wait_5s(reports.clone()));
        tokio::time::sleep(Duration::from_millis(300)).await;
        set(report("b", 9, &[]));
        let live = waiting.await.unwrap();
        assert_eq!((live.nodes, live.of, live.elapsed_ms), (2, 2, 300));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_refuses_ends_the_wait_and_its_reason_is_told() {
        let (send, reports) = watch::channel(BTreeMap::from([("a".into(), report("a", 6, &[]))]));
        let waiting = tokio::spawn(wait(
            reports,
            Mark::Generation(7),
            Instant::now(),
            Duration::from_secs(30),
        ));
        tokio::time::sleep(Duration::from_millis(100)).await;
        send.send_modify(|all| drop(all.insert("a".into(), report("a", 6, &["bad root"]))));
        let live = waiting.await.unwrap();
        assert_eq!((live.nodes, live.elapsed_ms), (0, 100));
        assert_eq!(live.refusals, ["bad root"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_refuses_a_generation_takes_secrets_all_the_same() {
        let refusing = report("a", 6, &["bad root"]);
        let (send, reports) = watch::channel(BTreeMap::from([("a".into(), refusing)]));
        let wait = wait(
            reports,
            Mark::Secrets(7),
            Instant::now(),
            Duration::from_secs(30),
        );
        let waiting = tokio::spawn(wait);
        tokio::time::sleep(Duration::from_millis(100)).await;
        send.send_modify(|all| drop(all.insert("a".into(), report("a", 7, &["worse root"]))));
        let live = waiting.await.unwrap();
        assert_eq!(
            (live.nodes, live.elapsed_ms, live.refusals.len()),
            (1, 100, 0)
        );
    }
}
