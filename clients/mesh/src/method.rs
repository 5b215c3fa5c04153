//! A method of a channel: its effective policy, and measurements of its calls.

use std::sync::Arc;

use opentelemetry::StringValue;

use crate::{
    endpoint::latency_outlier::Baseline,
    latency::RecentLatencies,
    message_size::MessageLimit,
    policy::{Criticality, MethodPolicy},
    route::MethodRoutes,
};

/// A method of a channel.
#[derive(Debug)]
pub(crate) struct Method {
    /// `package.Service/Method`; `_OTHER` for a method that no policy names.
    pub(crate) name: Arc<str>,
    /// The name as an attribute of metrics.
    pub(crate) label: StringValue,
    /// `None`: a method of an unknown contract, which is balanced and bounded by its caller's deadline, and only sent
    /// again when no server has processed it.
    pub(crate) policy: Option<Arc<MethodPolicy>>,
    /// Recent latencies of its calls, which determine when to hedge.
    pub(crate) latencies: RecentLatencies,
    /// The usual latency, by which slow endpoints are detected; `None` if this stands for several methods.
    pub(crate) baseline: Option<Arc<Baseline>>,
    /// Whether calls wait for a connection while every endpoint is known to be down.
    pub(crate) wait_for_ready: bool,
    /// The service config's limits of message sizes.
    pub(crate) request_limit: Option<MessageLimit>,
    pub(crate) response_limit: Option<MessageLimit>,
    /// The routes that may match its calls.
    pub(crate) routes: Option<MethodRoutes>,
    pub(crate) sources: Sources,
}

/// The sources of the parts of a method's policy: `contract`, or a path in the service config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sources {
    pub(crate) timeout: String,
    pub(crate) retry: String,
    pub(crate) hedging: String,
    pub(crate) wait_for_ready: String,
}

impl Method {
    pub(crate) fn new(name: &str, policy: Option<MethodPolicy>) -> Method {
        let name: Arc<str> = Arc::from(name);
        let label = StringValue::from(Arc::clone(&name));
        let policy = policy.map(Arc::new);
        let baseline = Some(Arc::default());
        let (latencies, sources) = (RecentLatencies::default(), Sources::default());
        Method {
            name,
            label,
            policy,
            latencies,
            baseline,
            wait_for_ready: false,
            request_limit: None,
            response_limit: None,
            routes: None,
            sources,
        }
    }

    /// Methods without a policy have normal criticality.
    pub(crate) fn criticality(&self) -> Criticality {
        self.policy
            .as_ref()
            .map_or(Criticality::Normal, |policy| policy.criticality)
    }
}

impl Default for Sources {
    fn default() -> Sources {
        let contract = || "contract".to_owned();
        let wait_for_ready = "tuning".to_owned();
        Sources {
            timeout: contract(),
            retry: contract(),
            hedging: contract(),
            wait_for_ready,
        }
    }
}
