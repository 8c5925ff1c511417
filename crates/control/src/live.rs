//! How far a generation has come: what the nodes say of themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use distribution::NodeReport;
use model::Generation;
use model::api::Live;
use tokio::sync::watch;
use tokio::time::Instant;

/// Waits until every node that reports serves `generation`, until one refuses it, or until `deadline`.
pub(crate) async fn wait(
    mut reports: watch::Receiver<BTreeMap<String, NodeReport>>,
    generation: Generation,
    started: Instant,
    deadline: Duration,
) -> Live {
    let before = refusals(&reports.borrow_and_update(), generation);
    let all = async {
        loop {
            {
                let reports = reports.borrow_and_update();
                let settled = reports.values().all(|node| serves(node, generation));
                if settled || refusals(&reports, generation) != before {
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
    count(&reports.borrow(), generation, started)
}

/// What holds now.
pub(crate) fn count(
    reports: &BTreeMap<String, NodeReport>,
    generation: Generation,
    started: Instant,
) -> Live {
    let nodes = reports.values().filter(|node| serves(node, generation));
    Live {
        nodes: nodes.count() as u32,
        of: reports.len() as u32,
        elapsed_ms: started.elapsed().as_millis() as u64,
        refusals: reports
            .values()
            .flat_map(|node| node.refusals.iter().cloned())
            .collect(),
    }
}

fn serves(node: &NodeReport, generation: Generation) -> bool {
    node.status.generation >= generation
}

/// What nodes refuse that do not serve `generation`.
fn refusals(reports: &BTreeMap<String, NodeReport>, generation: Generation) -> Vec<String> {
    reports
        .values()
        .filter(|node| !serves(node, generation))
        .flat_map(|node| node.refusals.iter().cloned())
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
                workers: 1,
                worker_restarts: 0,
                listen: String::new(),
            },
            refusals: refusals.iter().map(|text| text.to_string()).collect(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn live_counts_the_nodes_that_serve_and_waits_for_the_rest() {
        let wait_5s = |reports| wait(reports, 7, Instant::now(), Duration::from_secs(5));
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
        let waiting = tokio::spawn(wait(reports, 7, Instant::now(), Duration::from_secs(30)));
        tokio::time::sleep(Duration::from_millis(100)).await;
        send.send_modify(|all| drop(all.insert("a".into(), report("a", 6, &["bad root"]))));
        let live = waiting.await.unwrap();
        assert_eq!((live.nodes, live.elapsed_ms), (0, 100));
        assert_eq!(live.refusals, ["bad root"]);
    }
}
