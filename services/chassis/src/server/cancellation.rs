//! A handler that has effects ends its work even when nobody waits for it any more: a dropped connection leaves nothing
//! half done. One without effects is stopped with its caller: at the deadline, or when the connection is gone.

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
        // What a handler begins and does not wait for, the drain waits for.
        call.request.extensions_mut().insert(self.tasks.clone());
        let policy = call.policy();
        let reads = policy.is_some_and(|policy| policy.idempotency == Idempotency::NoSideEffects);
        // Task-locals do not cross a spawn: the scope begins inside.
        let context = call.context.clone();
        let running = self.tasks.run(async move { context.scope(next.run(call)).await });
        Box::pin(async move {
            let ended = if reads {
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
