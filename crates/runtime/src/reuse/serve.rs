//! What goes on in an instance's store: each request's task from its call to its end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant as Moment;

use capabilities::http::client::Outbound;
use capabilities::http::host::wasi03::{answer, offer};
use capabilities::http::host::{HttpContext, NewRequest};
use capabilities::http::{Answer, Outgoing};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use model::{Entry, Outcome};
use tokio::sync::oneshot;
use wasmtime::AsContextMut as _;
use wasmtime::component::Accessor;
use wasmtime_wasi_io::IoView as _;

use super::instance::Live;
use super::request::Request;
use super::task::Task;
use crate::code::Linked;
use crate::context::Context;
use crate::outcome::Misbehaviour;
use crate::run::store;
use crate::service::{self, Handle, ROUNDS};
use crate::{Code, Engine};

/// A request on its way to an instance.
pub struct Call {
    pub offered: NewRequest,
    pub answer: oneshot::Sender<Answer>,
    pub request: Rc<Request>,
}

/// Makes the instance and has it answer what it is handed, for as long as this is polled and nothing fails.
pub async fn serve(
    engine: Engine,
    entry: Arc<Entry>,
    code: Arc<Code>,
    live: Rc<Live>,
) -> wasmtime::Result<()> {
    let Linked::Component {
        pre,
        entry: function,
    } = &code.linked
    else {
        unreachable!("services are components");
    };
    let wasm = &engine.side(code.kind().setting()).wasm;
    let http = HttpContext::new(oneshot::channel().0, Outbound::default());
    let (vitals, voice) = (live.vitals.clone(), live.voice.clone());
    let context = Context::new(engine.clone(), entry, http, vitals, voice);
    let began = Moment::now();
    let mut store = store(wasm, context);
    let handle = service::instantiate(&mut store, pre, function).await?;
    live.made(began, Moment::now());
    let work = async |accessor: &Accessor<Context>| -> wasmtime::Result<Infallible> {
        let mut calls = FuturesUnordered::new();
        let mut working_on = Vec::new();
        poll_fn(|context| {
            loop {
                while let Some(call) = live.next() {
                    calls.push(one(accessor, &handle, call, &live));
                }
                match calls.poll_next_unpin(context) {
                    Poll::Ready(Some(Ok(replied))) => working_on.extend(replied),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            // The engine polls this whenever a task of the guest has had its turn.
            working_on.retain_mut(|one: &mut Replied| one.goes_on(accessor, &live, context));
            Poll::Pending
        })
        .await
    };
    match store.run_concurrent(work).await?? {}
}

/// One request, until nobody reads its reply any more; none if it is over by then.
async fn one(
    accessor: &Accessor<Context>,
    handle: &Handle,
    call: Call,
    live: &Live,
) -> wasmtime::Result<Option<Replied>> {
    let Call {
        offered,
        answer: told,
        request,
    } = call;
    let Some(observer) = request.begin() else {
        return Ok(None);
    };
    live.voice.set(observer.lines());
    drop(observer);
    let call = accessor.with(|mut access| {
        let outbound = &mut access.data_mut().http.outbound;
        outbound.caused_by_another(live.under_way(), live.hops());
        let offered = offer(access.data_mut().table(), offered)?;
        let call = handle.start_call_concurrent(&mut access, (offered,))?;
        let mut store = access.as_context_mut();
        let task = Task::begun(call.task(), store.concurrent_resource_table());
        live.runs(&request, task);
        wasmtime::error::Ok(call)
    })?;
    let returned = handle.finish_call_concurrent(accessor, call);
    let Some(returned) = request.unless_over(returned).await else {
        return Ok(None);
    };
    let (answer, relay) = accessor.with(|access| answer(access, returned?.0))?;
    let body = answer.as_ref().ok().map(|reply| reply.body.clone());
    if let Some(body) = &body {
        request.answered(body);
        if relay.is_none() {
            service::settle(body).await;
        }
    }
    // Nobody listens if the client is gone.
    let _ = told.send(answer);
    let left = async {
        if let Some(relay) = relay {
            relay.run().await;
        }
        if let Some(body) = &body {
            poll_fn(|context| body.poll_left(context)).await;
        }
    };
    let left = request.unless_over(left).await;
    Ok(left.map(|()| Replied {
        request,
        body,
        rounds: ROUNDS,
    }))
}

/// A request whose reply has left, and whose task may work on.
struct Replied {
    request: Rc<Request>,
    /// None if the guest answered with an error.
    body: Option<Outgoing>,
    /// For so many rounds the end of its body may still follow the task's.
    rounds: u32,
}

impl Replied {
    /// Whether it is under way; says its end if it is not.
    fn goes_on(
        &mut self,
        accessor: &Accessor<Context>,
        live: &Live,
        context: &TaskContext<'_>,
    ) -> bool {
        if self.request.is_over() {
            return false;
        }
        let runs = accessor.with(|mut access| {
            let mut store = access.as_context_mut();
            self.request.runs(store.concurrent_resource_table())
        });
        if runs {
            return true;
        }
        let open = self.body.as_ref().is_some_and(|body| !body.has_ended());
        if open && self.rounds > 0 {
            self.rounds -= 1;
            context.waker().wake_by_ref();
            return true;
        }
        live.vitals.share_out();
        live.end(&self.request, self.outcome());
        false
    }

    fn outcome(&self) -> Outcome {
        match &self.body {
            Some(body) if body.is_finished() => Outcome::Ok,
            Some(_) => {
                let text = Misbehaviour::BodyUnfinished;
                self.request.explain(&format!("{text}\n"));
                Outcome::BadResponse
            }
            None => Outcome::BadResponse,
        }
    }
}
