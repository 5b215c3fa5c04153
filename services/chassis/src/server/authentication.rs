//! Identifies the caller by its bearer token.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tracing::Span;

use super::{
    Reflection, Response,
    call::{Call, Layer as CallLayer, Next, refuse},
    connections::ConnectionInfo,
    reflection,
};
use crate::{
    auth::{TokenError, Verifier},
    status,
};

pub(super) struct Layer {
    verifier: Verifier,
    reflection: Reflection,
}

impl Layer {
    pub(super) fn new(verifier: Verifier, reflection: Reflection) -> Layer {
        Layer { verifier, reflection }
    }

    fn is_anonymous(&self, call: &Call) -> bool {
        let is_reflection = call.request.uri().path().starts_with(reflection::PREFIX);
        let needs_token = is_reflection && self.reflection == Reflection::Token;
        !needs_token && call.is_anonymous()
    }
}

impl CallLayer for Layer {
    fn handle(&self, mut call: Call, next: Next) -> BoxFuture<'_, Response> {
        if self.is_anonymous(&call) {
            return next.run(call);
        }
        Box::pin(async move {
            let Some(token) = call.context.bearer().cloned() else {
                let text = "the call needs a token: send `authorization: Bearer …`";
                return refuse(status::unauthenticated("NO_TOKEN", text));
            };
            match self.verifier.verify(&token).await {
                Ok(identity) => {
                    if let Some(connection) = call.request.extensions().get::<Arc<ConnectionInfo>>() {
                        connection.mark_authenticated();
                    }
                    Span::current()
                        .record("weft.facility", identity.facility.as_str())
                        .record("weft.subject", identity.subject.as_str());
                    call.request.extensions_mut().insert(identity);
                    next.run(call).await
                }
                Err(refused @ TokenError::NoKeys) => {
                    refuse(status::unavailable("KEYS_UNAVAILABLE", refused.to_string()))
                }
                Err(refused) => refuse(status::unauthenticated("INVALID_TOKEN", refused.to_string())),
            }
        })
    }
}
