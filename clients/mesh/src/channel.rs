//! The channel: what generated clients are built on.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    task::{Context as Task, Poll},
};

use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response};
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::AbortHandle,
};
use tonic::{Status, body::Body};
use tower::{Service, util::BoxCloneSyncService};

use crate::{
    ChannelOptions, Context, Error, Policies,
    attempt::Prepare,
    balance::Balance,
    call::{Call, Method},
    deadline::{self, Deadline},
    discovery::Target,
    endpoint::{Caller, room::Room},
    hedge::Hedge,
    options::Tuning,
    retry::{
        Retry,
        budget::{Budget, Throttling},
    },
    supervisor::{Published, Supervisor},
    telemetry::{Calls, Metrics},
    throttle::{self, Throttle},
};

type Stack = BoxCloneSyncService<Call, Response<Body>, Status>;

/// Calls to one service, over as many endpoints as it has. Cheap to clone; connections end with the last clone.
#[derive(Clone)]
pub struct Channel {
    shared: Arc<Shared>,
    stack: Stack,
}

struct Shared {
    service: Arc<str>,
    tuning: Arc<Tuning>,
    methods: HashMap<String, Arc<Method>>,
    /// Stands for every method that no policy names.
    unlisted: Arc<Method>,
    supervisor: AbortHandle,
}

impl Channel {
    /// Makes a channel and starts to connect in the background. Never waits.
    ///
    /// # Errors
    /// When the target or a setting cannot be used, or outside a tokio runtime.
    pub fn connect(options: ChannelOptions, policies: &Policies) -> Result<Channel, Error> {
        options.tuning.check()?;
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let target = Target::parse(&options.target, options.tuning.dns_refresh())?;
        let user_agent =
            HeaderValue::try_from(format!("weft-{}/{}", options.caller, env!("CARGO_PKG_VERSION")));
        let user_agent = user_agent.map_err(|_| Error::Setting {
            setting: "caller".to_owned(),
            reason: "holds characters that no header may".to_owned(),
        })?;
        let (service, tuning): (Arc<str>, _) = (Arc::from(options.service), Arc::new(options.tuning));
        let (publish, published) = watch::channel(Arc::new(Published::default()));
        let demand = Arc::new(Notify::new());
        let metrics = Arc::new(Metrics::new(&service));
        let room = Arc::new(Room::new(tuning.max_in_flight, tuning.max_waiting));
        let balance = Balance {
            published,
            demand: Arc::clone(&demand),
            room: Arc::clone(&room),
            service: Arc::clone(&service),
            zone: tuning.zone.as_deref().map(Arc::from),
            wait_for_ready: tuning.wait_for_ready,
        };
        let supervisor = Supervisor {
            target,
            tuning: Arc::clone(&tuning),
            caller: Arc::new(Caller {
                user_agent,
                metrics: Arc::clone(&metrics),
            }),
            publish,
            demand,
            room,
            ejections: Arc::default(),
        };
        let shared = Shared {
            service,
            methods: methods(policies),
            unlisted: Arc::new(Method::new("_OTHER", None)),
            supervisor: runtime.spawn(supervisor.run()).abort_handle(),
            tuning: Arc::clone(&tuning),
        };
        Ok(Channel {
            shared: Arc::new(shared),
            stack: stack(balance, &tuning, &metrics),
        })
    }

    fn begin(&self, mut request: Request<Body>) -> Result<Call, Status> {
        let context = request
            .extensions_mut()
            .remove::<Context>()
            .or_else(Context::current)
            .unwrap_or_default();
        let method = self
            .shared
            .methods
            .get(request.uri().path())
            .unwrap_or(&self.shared.unlisted);
        let own = deadline::own_timeout(request.headers())?;
        let declared = method.policy.as_ref().map(|policy| policy.timeout);
        let deadline = deadline::effective(&context, own, declared, self.shared.tuning.deadline_margin());
        Ok(Call {
            method: Arc::clone(method),
            context,
            deadline,
            request,
        })
    }
}

/// Every call passes through these layers. Read from below, as a call does.
fn stack(balance: Balance, tuning: &Tuning, metrics: &Arc<Metrics>) -> Stack {
    let budget = Arc::new(Budget::new(Throttling::default()));
    let limit = tuning.replay_limit_bytes;
    // Innermost: an endpoint for each attempt, one not tried yet before others.
    let attempts = balance;
    // Every attempt says how much time is left and which one it is.
    let attempts = Prepare::new(attempts, Arc::clone(metrics));
    // A call is repeated one attempt after the other...
    let retry = Retry::new(attempts.clone(), Arc::clone(&budget), Arc::clone(metrics), limit);
    // ...or, where its method declares it, one beside the other.
    let calls = Hedge {
        attempts,
        otherwise: retry,
        budget,
        metrics: Arc::clone(metrics),
        replay_limit: limit,
    };
    // A refused call is not to be retried, so that the throttle stands above the retries.
    let calls = Throttle::new(calls, Arc::new(throttle::Record::new()), Arc::clone(metrics));
    // What the application sees is what is measured, local refusals included.
    let calls = Calls::new(calls, Arc::clone(metrics));
    // Outermost, because everything below takes time.
    let calls = Deadline::new(calls);
    BoxCloneSyncService::new(calls)
}

fn methods(policies: &Policies) -> HashMap<String, Arc<Method>> {
    let method = |(path, policy): (&str, &crate::MethodPolicy)| {
        (
            path.to_owned(),
            Arc::new(Method::new(path.trim_start_matches('/'), Some(policy.clone()))),
        )
    };
    policies.iter().map(method).collect()
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.begin(request) {
            Ok(call) => self.stack.call(call),
            Err(status) => Box::pin(async move { Err(status) }),
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("service", &self.shared.service)
            .finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}
