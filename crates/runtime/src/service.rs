//! One request through a fresh instance of a `wasi:http` 0.3 service.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use capabilities::http::host::NewRequest;
use capabilities::http::host::wasi03::{Request, Returned, answer, offer};
use capabilities::http::{Answer, Outgoing};
use model::limits;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime::component::{Accessor, ComponentExportIndex, InstancePre, Resource, TypedFunc};
use wasmtime_wasi_io::IoView as _;

use crate::context::Context;
use crate::outcome::Misbehaviour;

/// Makes the instance, calls it and lets it work on after its answer, to its own end.
pub async fn serve(
    mut store: Store<Context>,
    pre: &InstancePre<Context>,
    function: &ComponentExportIndex,
    request: NewRequest,
    told: oneshot::Sender<Answer>,
) -> wasmtime::Result<()> {
    let handle = instantiate(&mut store, pre, function).await?;
    let request = offer(store.data_mut().table(), request)?;
    let work = async |accessor: &Accessor<Context>| {
        let (returned,) = handle.call_concurrent(accessor, (request,)).await?;
        let (answer, relay) = accessor.with(|access| answer(access, returned))?;
        let body = answer.as_ref().ok().map(|reply| reply.body.clone());
        if let (Some(body), None) = (&body, &relay) {
            settle(body).await;
        }
        // Nobody listens if the client is gone; the invocation ends for that reason.
        let _ = told.send(answer);
        if let Some(relay) = relay {
            relay.run().await;
        }
        poll_fn(|context| accessor.poll_no_interesting_tasks(context)).await;
        match body {
            Some(body) => Ok(end(&body).await?),
            None => Ok(()),
        }
    };
    store.run_concurrent(work).await?
}

/// A service's handler.
pub type Handle = TypedFunc<(Resource<Request>,), (Returned,)>;

/// Makes the instance, in a store that holds no more of tasks and streams than it may.
pub async fn instantiate(
    store: &mut Store<Context>,
    pre: &InstancePre<Context>,
    function: &ComponentExportIndex,
) -> wasmtime::Result<Handle> {
    let began = Instant::now();
    let table = store.concurrent_resource_table();
    table
        .expect("the engine has concurrency")
        .set_max_capacity(limits::TASKS.default as usize);
    let instance = pre.instantiate_async(&mut *store).await?;
    store.data().vitals.instantiated(began);
    instance.get_typed_func(&mut *store, function)
}

/// In so many rounds of the event loop arrives what a guest had in hand.
pub const ROUNDS: u32 = 4;

/// Lets the event loop go round until the body has ended, a few times at the most. What a guest has in hand when it
/// returns arrives in these rounds: its reply then leaves whole, with its length, instead of in pieces.
pub async fn settle(body: &Outgoing) {
    for _ in 0..ROUNDS {
        if body.has_ended() {
            return;
        }
        let mut again = true;
        poll_fn(|context| match std::mem::take(&mut again) {
            true => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            false => Poll::Ready(()),
        })
        .await;
    }
}

/// Whether the body came to its end, which may follow the guest's own.
async fn end(body: &Outgoing) -> Result<(), Misbehaviour> {
    settle(body).await;
    match body.is_finished() {
        true => Ok(()),
        false => Err(Misbehaviour::BodyUnfinished),
    }
}
