//! Identifies the caller by its credentials.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use opentelemetry::{Key, StringValue};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{
    Reflection, Response,
    call::{Call, Layer as CallLayer, Next, refuse},
    connections::ConnectionInfo,
    reflection,
    tls::Peer,
};
use crate::authenticator::{Authenticator, Credentials};

pub(super) struct Layer {
    /// `None` when every caller is allowed.
    authenticator: Option<Arc<dyn Authenticator>>,
    reflection: Reflection,
    /// The attribute of spans that names the tenant.
    tenant_attribute: Key,
}

impl Layer {
    pub(super) fn new(authenticator: Option<Arc<dyn Authenticator>>, reflection: Reflection) -> Layer {
        let tenant = authenticator
            .as_ref()
            .map_or("tenant", |authenticator| authenticator.tenant_name());
        Layer {
            tenant_attribute: Key::from(Arc::from(format!("weft.{tenant}"))),
            authenticator,
            reflection,
        }
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
        let Some(authenticator) = &self.authenticator else {
            mark_authenticated(&call);
            return next.run(call);
        };
        Box::pin(async move {
            let authenticated = authenticator.authenticate(Credentials {
                bearer: call.context.bearer().map(|token| &**token),
                headers: call.request.headers(),
                peer: call.request.extensions().get::<Peer>(),
            });
            let caller = match authenticated.await {
                Ok(caller) => caller,
                Err(refusal) => return refuse(refusal),
            };
            mark_authenticated(&call);
            let span = Span::current();
            if !span.is_disabled() {
                span.record("weft.subject", caller.subject.as_str());
                if let Some(tenant) = &caller.tenant {
                    span.set_attribute(
                        self.tenant_attribute.clone(),
                        StringValue::from(tenant.to_shared()),
                    );
                }
            }
            call.request.extensions_mut().insert(caller);
            next.run(call).await
        })
    }
}

/// From now on the connection gives way to no other.
fn mark_authenticated(call: &Call) {
    if let Some(connection) = call.request.extensions().get::<Arc<ConnectionInfo>>() {
        connection.mark_authenticated();
    }
}
