//! Decides whether a handler is cancelled with its caller. A handler with side effects runs to its end, so that a
//! dropped connection leaves nothing half done. One without side effects is cancelled at the deadline, or when the
//! connection is closed; so is one without a deadline.

use futures_util::future::BoxFuture;
use mesh::policy::Idempotency;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Response,
    call::{Call, Layer as CallLayer, Next, refuse},
};
use crate::{Tasks, status};

pub(super) struct Layer {
    tasks: Tasks,
}

impl Layer {
    pub(super) fn new(tasks: Tasks) -> Layer {
        Layer { tasks }
    }
}

impl CallLayer for Layer {
    fn handle(&self, mut call: Call, next: Next) -> BoxFuture<'_, Response> {
        // The drain also waits for work that a handler starts and does not await.
        call.request.extensions_mut().insert(self.tasks.clone());
        let policy = call.policy();
        let reads = policy.is_some_and(|policy| policy.idempotency == Idempotency::NoSideEffects);
        // Without a deadline nothing else would end the handler, and free its permits.
        let ends_with_caller = reads || call.context.deadline().is_none();
        // Task-locals are not inherited by spawned tasks, so the scope starts inside.
        let context = call.context.clone();
        let running = self.tasks.run(async move { context.scope(next.run(call)).await });
        Box::pin(async move {
            let ended = if ends_with_caller {
                AbortOnDropHandle::new(running).await
            } else {
                running.await
            };
            match ended {
                Ok(response) => response,
                Err(panicked) => refuse(status::internal(&panicked)),
            }
        })
    }
}
