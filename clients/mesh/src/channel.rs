//! The channel, on which generated clients are built.

mod snapshot;
mod tokens;

use std::{
    fmt,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    task::{Context as Task, Poll},
};

use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response};
use tokio::{runtime::Handle, sync::watch, task::AbortHandle};
use tonic::{Status, body::Body};
use tower::Service;

use self::tokens::Tokens;
use crate::{
    ChannelOptions, Context, Error, Policies,
    attempt::Prepare,
    balance::Balance,
    call::Call,
    connection::{Connector, PingBackoff},
    deadline::{self, Deadline},
    discovery::{Target, subset::Subset},
    endpoint::{ChannelInfo, breaker::Ejections, concurrency_limit::ConcurrencyLimit},
    faults::Faults,
    hedge::Hedge,
    methods::Methods,
    options::Tuning,
    origin,
    proxy::Proxy,
    retry::{
        Retry,
        budget::{Budget, Budgets, Throttling},
    },
    service_config::{self, ServiceConfig, file::File},
    supervisor::{Demand, Published, Supervisor},
    telemetry::{Calls, Metrics},
    throttle::{self, Throttle},
    tls::Credentials,
};

type Attempts = Prepare<Faults<Balance>>;
type Stack = Deadline<Calls<Throttle<Hedge<Attempts, Retry<Attempts>>>>>;

/// Sends calls to one service, balanced over all its endpoints. Cheap to clone; connections end with the last
/// clone.
#[derive(Clone)]
pub struct Channel {
    shared: Arc<Shared>,
    stack: Stack,
}

struct Shared {
    options: ChannelOptions,
    policies: Policies,
    methods: RwLock<Arc<Methods>>,
    budgets: Arc<Budgets>,
    histories: Arc<throttle::Histories>,
    published: watch::Receiver<Arc<Published>>,
    ejections: Arc<Ejections>,
    health_service: Option<Arc<str>>,
    metrics: Arc<Metrics>,
    tokens: Tokens,
    supervisor: AbortHandle,
    concurrency_limit: Arc<ConcurrencyLimit>,
    /// Follows the file of the service config.
    config_watch: OnceLock<AbortHandle>,
}

impl Channel {
    /// Creates a channel and starts to connect in the background. Never waits.
    ///
    /// # Errors
    /// If the target, a setting or the service config is invalid, or outside a tokio runtime.
    pub fn connect(options: ChannelOptions, policies: &Policies) -> Result<Channel, Error> {
        options.check()?;
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let target = Target::parse(
            &options.target,
            &options.tuning.kubernetes,
            options.tuning.dns_refresh(),
            options.tuning.zone.as_deref(),
        )?;
        let secured = target.is_secured(&options.target, options.tuning.tls.is_some())?;
        let file = options
            .service_config_file
            .as_deref()
            .map(File::read)
            .transpose()?;
        let json = file.as_ref().map(File::content);
        let config = json.or(options.tuning.service_config.as_deref());
        let config = config.map(ServiceConfig::parse).transpose()?.unwrap_or_default();
        let methods = methods(&options, policies, &config)?;

        let tuning = Arc::new(options.tuning.clone());
        let credentials = secured
            .then(|| Credentials::load(&tuning.tls.clone().unwrap_or_default()))
            .transpose()?;
        let connector = Arc::new(Connector {
            tuning: Arc::clone(&tuning),
            proxy: proxy(&tuning, &target)?,
            credentials,
            ping_backoff: PingBackoff::default(),
        });
        let metrics = Arc::new(Metrics::new(&options.service, &options.target));
        let concurrency_limit = Arc::new(ConcurrencyLimit::new(tuning.max_in_flight, tuning.max_waiting));
        concurrency_limit.set_routed(config.routes.is_some());
        let demand = Arc::new(Demand::default());
        let (publish, published) = watch::channel(Arc::new(Published::default()));
        let balance = Balance {
            published: published.clone(),
            demand: Arc::clone(&demand),
            concurrency_limit: Arc::clone(&concurrency_limit),
            service: Arc::from(options.service.as_str()),
            zone: tuning.zone.as_deref().map(Arc::from),
            probe_schedule: Arc::default(),
        };
        let channel_info = Arc::new(ChannelInfo {
            user_agent: user_agent(&options.caller)?,
            ping_interval: tuning.shortest_silence(),
            metrics: Arc::clone(&metrics),
        });
        let ejections = Arc::new(Ejections::new(config.outlier_detection.clone()));
        let health_service = config
            .health_check_config
            .as_ref()
            .map(|health| Arc::from(health.service_name.as_str()));
        let supervisor = Supervisor {
            connector,
            channel_info,
            publish,
            demand,
            concurrency_limit: Arc::clone(&concurrency_limit),
            ejections: Arc::clone(&ejections),
            health_service: health_service.clone(),
            subset: Subset::default(),
        };
        let shared = Shared {
            tokens: Tokens::new(&options),
            options,
            policies: policies.clone(),
            methods: RwLock::new(Arc::new(methods)),
            budgets: Arc::new(Budgets::new(|| Arc::new(Budget::new(throttling(&config))))),
            histories: Arc::new(throttle::Histories::new(throttle::History::new)),
            published,
            ejections,
            health_service,
            metrics: Arc::clone(&metrics),
            supervisor: runtime.spawn(supervisor.run(target)).abort_handle(),
            concurrency_limit,
            config_watch: OnceLock::new(),
        };
        let stack = stack(balance, &shared, &tuning, &metrics);
        let shared = Arc::new(shared);
        if let Some(file) = file {
            let channel = Arc::downgrade(&shared);
            let watching = file.watch(move |json| Some(channel.upgrade()?.reconfigure(json)));
            let _ = shared.config_watch.set(runtime.spawn(watching).abort_handle());
        }
        Ok(Channel { shared, stack })
    }

    /// Applies another service config to the calls that begin from now on, without reconnecting. An outlier detection
    /// continues with the new policy: ejections last as long as that says, and end if it is no longer configured.
    /// `healthCheckConfig` is fixed when the channel is created.
    ///
    /// # Errors
    /// If the config is invalid, with the path of the first error; the current config stays in force.
    pub fn reconfigure(&self, service_config: &str) -> Result<(), Error> {
        self.shared.reconfigure(service_config)
    }

    fn begin(&self, mut request: Request<Body>) -> Result<Call, Status> {
        let context = request
            .extensions_mut()
            .remove::<Context>()
            .or_else(Context::current)
            .unwrap_or_default();
        let context = self.shared.tokens.apply(context, request.headers())?;
        let path = request.uri().path();
        let method = Arc::clone(self.shared.methods().get(path));
        let routes = method.routes.as_ref();
        let destination = routes.and_then(|routes| routes.destination(path, request.headers()));
        let own = deadline::own_timeout(request.headers())?;
        let declared = method.policy.as_ref().map(|policy| policy.timeout);
        let margin = self.shared.options.tuning.deadline_margin();
        let deadline = deadline::effective(&context, own, declared, margin);
        if let Some(limit) = method.request_limit {
            request = request.map(|body| limit.apply(body));
        }
        Ok(Call {
            method,
            context,
            deadline,
            destination,
            request,
        })
    }
}

/// The layers of every call, innermost first: a call passes through them from the last to the first.
fn stack(balance: Balance, shared: &Shared, tuning: &Tuning, metrics: &Arc<Metrics>) -> Stack {
    let budgets = &shared.budgets;
    let limit = tuning.replay_limit_bytes;
    // Innermost: chooses an endpoint for each attempt, preferably one that the call has not tried yet.
    let attempts = balance;
    // Injected faults look like the endpoint's own.
    let attempts = Faults::new(attempts, &tuning.inject);
    // Every attempt carries its remaining time and its number.
    let attempts = Prepare::new(attempts, Arc::clone(metrics));
    // Retries repeat a call one attempt after the other...
    let retry = Retry::new(attempts.clone(), Arc::clone(budgets), Arc::clone(metrics), limit);
    // ...and hedges, for methods that declare them, start attempts in parallel.
    let hedge_metrics = Arc::clone(metrics);
    let calls = Hedge {
        attempts,
        retry,
        budgets: Arc::clone(budgets),
        metrics: hedge_metrics,
        replay_limit: limit,
    };
    // Above the retries, because a throttled call must not be retried.
    let calls = Throttle::new(calls, Arc::clone(&shared.histories), Arc::clone(metrics));
    // Measures calls as the application sees them, throttled ones included.
    let calls = Calls::new(calls, Arc::clone(metrics));
    // Outermost, because the deadline covers everything below.
    Deadline::new(calls)
}

/// The effective policies of the methods.
fn methods(options: &ChannelOptions, policies: &Policies, config: &ServiceConfig) -> Result<Methods, Error> {
    let wait_for_ready = options.tuning.wait_for_ready;
    Methods::new(policies, config, &options.call_policies, wait_for_ready)
}

fn throttling(config: &ServiceConfig) -> Throttling {
    let configured = config.retry_throttling.map(|config| Throttling {
        max_tokens: config.max_tokens,
        token_ratio: config.token_ratio,
    });
    configured.unwrap_or_default()
}

fn proxy(tuning: &Tuning, target: &Target) -> Result<Option<Proxy>, Error> {
    let proxy = tuning.proxy.as_deref().map(Proxy::parse).transpose();
    match (proxy, target) {
        (Ok(Some(_)), Target::Unix(_)) => Err("cannot be used with a Unix socket".to_owned()),
        (proxy, _) => proxy,
    }
    .map_err(|reason| Error::Setting {
        setting: "proxy".to_owned(),
        reason,
    })
}

fn user_agent(caller: &str) -> Result<HeaderValue, Error> {
    let value = format!("weft-{caller}/{}", env!("CARGO_PKG_VERSION"));
    HeaderValue::try_from(value).map_err(|_| Error::Setting {
        setting: "caller".to_owned(),
        reason: "contains characters that are invalid in a header".to_owned(),
    })
}

impl Shared {
    fn reconfigure(&self, service_config: &str) -> Result<(), Error> {
        let config = ServiceConfig::parse(service_config)?;
        let watched = config
            .health_check_config
            .as_ref()
            .map(|health| health.service_name.as_str());
        if watched != self.health_service.as_deref() {
            return Err(service_config::invalid(
                "healthCheckConfig",
                "cannot change while the channel is open",
            ));
        }
        let methods = methods(&self.options, &self.policies, &config)?;
        self.budgets.set_throttling(throttling(&config));
        self.concurrency_limit.set_routed(config.routes.is_some());
        self.ejections
            .set_outlier_detection(config.outlier_detection.clone());
        *self.methods.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(methods);
        Ok(())
    }

    fn methods(&self) -> Arc<Methods> {
        Arc::clone(&self.methods.read().unwrap_or_else(PoisonError::into_inner))
    }
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
            Ok(call) => match call.method.response_limit {
                None => self.stack.call(call),
                Some(limit) => {
                    let response = self.stack.call(call);
                    Box::pin(async move { Ok(response.await?.map(|body| limit.apply(body))) })
                }
            },
            Err(status) => Box::pin(async move { Err(origin::not_sent(status)) }),
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("service", &self.shared.options.service)
            .finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.supervisor.abort();
        if let Some(watching) = self.config_watch.get() {
            watching.abort();
        }
    }
}
