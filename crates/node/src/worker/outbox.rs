//! What this worker says to its supervisor: messages at once, log lines in batches, counts every second.

use std::rc::Rc;

use model::pipe::ToSupervisor;
use tokio::sync::mpsc;
use tokio::time::{Duration, MissedTickBehavior, interval};

use super::report::Gauges;
use super::serve::Worker;
use crate::pipe::{PipeError, Writer};

/// Messages that wait to be sent. A supervisor that takes none of so many is silent, and about to be gone.
const MESSAGES: usize = 1024;

/// Where messages to the supervisor are put.
#[derive(Clone)]
pub struct Outbox(mpsc::Sender<ToSupervisor>);

/// What was put there.
pub struct Outgoing(mpsc::Receiver<ToSupervisor>);

pub fn outbox() -> (Outbox, Outgoing) {
    let (sender, receiver) = mpsc::channel(MESSAGES);
    (Outbox(sender), Outgoing(receiver))
}

impl Outbox {
    /// Puts a message there without waiting. One that finds no room is lost, as is all that a supervisor which does
    /// not listen is told: who waits for the answer has a deadline.
    pub fn put(&self, message: ToSupervisor) {
        let _ = self.0.try_send(message);
    }
}

/// Sends until `Drained` is sent or the supervisor is gone; keeps the worker's clock of seconds meanwhile.
pub async fn send(
    worker: Rc<Worker>,
    mut outgoing: Outgoing,
    mut writer: Writer,
) -> Result<(), PipeError> {
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seconds.tick().await;
    loop {
        tokio::select! {
            biased;
            message = outgoing.0.recv() => match message {
                Some(ToSupervisor::Drained) => {
                    while let Some(batch) = worker.report.rest() {
                        writer.send_logs(&batch).await?;
                    }
                    send_traces(&worker, &mut writer).await?;
                    send_metrics(&worker, &mut writer).await?;
                    return writer.send(&ToSupervisor::Drained, &[]).await;
                }
                Some(message) => writer.send(&message, &[]).await?,
                None => return Ok(()),
            },
            _ = seconds.tick() => {
                worker.connections.tick();
                worker.residents.tick(worker.connections.second());
                worker.report.second();
                send_metrics(&worker, &mut writer).await?;
            }
            batch = worker.report.batch() => {
                writer.send_logs(&batch).await?;
                worker.report.reuse(batch);
                send_traces(&worker, &mut writer).await?;
            }
        }
    }
}

/// Each traced request has a line in a batch that was sent just now, so its trace waits no longer than that.
async fn send_traces(worker: &Worker, writer: &mut Writer) -> Result<(), PipeError> {
    while let Some(traced) = worker.report.traced_batch() {
        writer.send(&ToSupervisor::Traced(traced), &[]).await?;
    }
    Ok(())
}

async fn send_metrics(worker: &Worker, writer: &mut Writer) -> Result<(), PipeError> {
    let gauges = Gauges {
        live_instances: worker.pool.live(),
        resident_apps: worker.residents.len(),
        connections: worker.connections.count(),
        sent: worker.way_out.metrics(),
    };
    for metrics in worker.report.metrics(gauges) {
        writer
            .send(&ToSupervisor::Metrics(Box::new(metrics)), &[])
            .await?;
    }
    Ok(())
}
