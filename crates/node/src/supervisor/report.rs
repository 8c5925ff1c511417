//! The node's word about itself: what it serves, and what it could not.

use std::sync::Arc;

use distribution::{Distribution, NodeReport};
use model::api::NodeStatus;
use model::{Generation, LimitsRevision, SecretsRevision};
use tokio::sync::watch;

use super::plan;

/// How things stand. Whoever changes something says so here.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// By worker slot, the generation that every request accepted from now on meets; none while nothing is accepted.
    pub applied: Vec<Option<Generation>>,
    /// By worker slot, the change of secrets that every read from now on meets; none while nothing is accepted.
    pub secrets: Vec<Option<SecretsRevision>>,
    /// By worker slot, the change of tenants' limits that every request accepted from now on meets; none while nothing is accepted.
    pub limits: Vec<Option<LimitsRevision>>,
    /// By worker slot, whether no connection takes another request.
    pub settled: Vec<bool>,
    /// By worker slot, the process.
    pub processes: Vec<Option<u32>>,
    /// The newest generation that was put on disk, or found impossible to put there.
    pub kept: Generation,
    pub worker_restarts: u64,
    /// How the worker ended that ended last.
    pub last_end: Option<String>,
    /// Why the newest generation was not taken.
    pub refused: Option<String>,
    /// Why the newest generation is not on disk.
    pub not_kept: Option<String>,
}

impl Standing {
    pub fn new(slots: usize) -> Self {
        Self {
            applied: vec![None; slots],
            secrets: vec![None; slots],
            limits: vec![None; slots],
            settled: vec![false; slots],
            processes: vec![None; slots],
            ..Self::default()
        }
    }

    /// Whether every worker serves `generation` or a newer one.
    pub fn serves(&self, generation: Generation) -> bool {
        self.applied
            .iter()
            .all(|applied| *applied >= Some(generation))
    }
}

/// Reports to the distribution whenever something changed that others should know. Never ends.
pub async fn report(
    name: String,
    listen: String,
    distribution: Arc<dyn Distribution>,
    mut standing: watch::Receiver<Standing>,
) {
    let mut last = None;
    let mut live = 0;
    let mut secrets = 0;
    let mut limits = 0;
    loop {
        let report = {
            let standing = standing.borrow_and_update();
            live = plan::live(live, standing.kept, &standing.applied);
            secrets = plan::reached(secrets, standing.secrets.iter().copied());
            limits = plan::reached(limits, standing.limits.iter().copied());
            // Told once it is served: who waits for that would take it for a refusal.
            let not_kept = standing.not_kept.as_ref();
            let not_kept = not_kept.filter(|_| live >= standing.kept);
            NodeReport {
                status: NodeStatus {
                    name: name.clone(),
                    generation: live,
                    secrets,
                    limits,
                    workers: standing.applied.len() as u32,
                    worker_restarts: standing.worker_restarts,
                    listen: listen.clone(),
                },
                refusals: [standing.refused.as_ref(), not_kept]
                    .into_iter()
                    .flatten()
                    .cloned()
                    .collect(),
            }
        };
        if last.as_ref() != Some(&report) {
            distribution.report(report.clone());
            last = Some(report);
        }
        if standing.changed().await.is_err() {
            return;
        }
    }
}
