//! A handler ends its work even when nobody waits for it any more: a dropped connection leaves no half-done effect and
//! no connection with a transaction in the middle.

use futures_util::future::BoxFuture;

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
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response> {
        // Task-locals do not cross a spawn: the scope begins inside.
        let context = call.context.clone();
        let running = self.tasks.run(async move { context.scope(next.run(call)).await });
        Box::pin(async move {
            match running.await {
                Ok(response) => response,
                Err(panicked) => refuse(status::internal(&panicked)),
            }
        })
    }
}
