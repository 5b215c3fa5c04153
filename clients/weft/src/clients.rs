//! gRPC clients of the services, through the mesh, with a token and, under mutual TLS, a certificate.

mod tls;
mod wrong_server;

use std::{sync::Arc, time::Duration};

use mesh::{Channel, ChannelOptions, Context};
use proto::{
    claims::v1::claim_service_client::ClaimServiceClient,
    ops::v1::{
        dead_letter_service_client::DeadLetterServiceClient, event_service_client::EventServiceClient,
        mesh_service_client::MeshServiceClient, saga_service_client::SagaServiceClient,
    },
    order::v1::order_service_client::OrderServiceClient,
    payment::v1::{ledger_service_client::LedgerServiceClient, payment_service_client::PaymentServiceClient},
};

use crate::{
    duration,
    failure::Failure,
    globals::Globals,
    output,
    policies::{contract_timeout, policies},
    request_id::RequestId,
    service::Service,
    token::Bearer,
    up::Lock,
    workspace::Workspace,
};
use tls::Address;
pub(crate) use tls::TRUST_DOMAIN;
pub(crate) use wrong_server::explain;

/// One channel per service, shared by all calls of a command. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Clients(Arc<Inner>);

struct Inner {
    order: Channel,
    payment: Channel,
    claims: Channel,
    addresses: [Address; 3],
    bearer: Bearer,
    facility: String,
    timeout: Option<Duration>,
    request_id: RequestId,
    is_request_id_given: bool,
    stopped: Option<StoppedSystem>,
}

/// The local system does not run. Another process may listen on its ports, so calls to them are refused.
struct StoppedSystem {
    folder: String,
    /// Services with an explicit address, which can be called all the same.
    named: Vec<Service>,
}

impl StoppedSystem {
    /// `None` if the system runs, or if there is no folder: then calls go to the default ports, because the
    /// services may have been started by hand.
    fn detect(globals: &Globals, workspace: &Workspace, addresses: &[Address]) -> Option<StoppedSystem> {
        let is_expected = globals.dir.is_some() || workspace.path().is_dir();
        let named = addresses.iter().filter(|address| address.is_given);
        (is_expected && Lock::is_free(workspace)).then(|| StoppedSystem {
            folder: workspace.path().display().to_string(),
            named: named.map(|address| address.service).collect(),
        })
    }

    /// Whether this request message goes to a service of the stopped system.
    fn blocks(&self, message: &str) -> bool {
        match message.split('.').next() {
            Some("ops") => self.named.is_empty(),
            package => !self.named.iter().any(|named| package == Some(named.name())),
        }
    }
}

/// Large responses, such as a page of 1000 orders, exceed tonic's default of 4 MiB.
const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

/// Finds a method by the name of its request message: `order.v1.OrderService/GetOrder` for
/// `order.v1.GetOrderRequest`.
pub(crate) fn method_by_request(request: &str) -> Option<String> {
    let pool = output::pool().ok()?;
    let mut methods = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>());
    let method = methods.find(|method| method.input().full_name() == request)?;
    Some(format!(
        "{}/{}",
        method.parent_service().full_name(),
        method.name()
    ))
}

/// The method that takes this request, and its timeout in the contract.
fn contract_limit<M: prost::Name>() -> Option<(String, Duration)> {
    let method = method_by_request(&M::full_name())?;
    let limit = contract_timeout(&method)?;
    Some((method, limit))
}

impl Clients {
    /// Connects to the services, found by option, environment, `weft.json` or default port, with a token.
    pub(crate) fn open(globals: &Globals) -> Result<Clients, Failure> {
        let policies = policies().map_err(anyhow::Error::from)?;
        let bearer = Bearer::from_globals(globals)?;
        let workspace = Workspace::find(globals);
        let description = workspace.read_description();
        if let Some(id) = globals.request_id {
            globals.command_request_id.set(id);
        }
        let address = |service: Service, given: &Option<String>| {
            let written = description
                .as_ref()
                .and_then(|all| all.services.get(service.name()));
            let url = given
                .clone()
                .or_else(|| written.map(|addresses| addresses.url.clone()));
            Address {
                service,
                url: url.unwrap_or_else(|| format!("http://127.0.0.1:{}", service.default_ports().0)),
                is_given: given.is_some(),
            }
        };
        let addresses = [
            address(Service::Order, &globals.order_url),
            address(Service::Payment, &globals.payment_url),
            address(Service::Claims, &globals.claims_url),
        ];
        tls::check_addresses(&globals.tls, &addresses)?;
        let bearer_tokens = tls::bearer_tokens(&globals.tls, &addresses)?;
        let channel = |Address { service, url, .. }: &Address| {
            let mut options = ChannelOptions::new(format!("static:{url}"), service.name(), "weft-cli");
            let local = description.as_ref().and_then(|all| all.tls.as_ref());
            options.tuning.tls = tls::channel_tls(&globals.tls, *service, url, local)?;
            options.tuning.bearer = bearer_tokens;
            Channel::connect(options, &policies)
                .map_err(|error| Failure::Usage(format!("{}: {error}", service.name())))
        };
        let [order, payment, claims] = &addresses;
        Ok(Clients(Arc::new(Inner {
            order: channel(order)?,
            payment: channel(payment)?,
            claims: channel(claims)?,
            facility: bearer.facility().unwrap_or_else(|| globals.facility.clone()),
            bearer,
            timeout: globals.timeout,
            request_id: globals.command_request_id.clone(),
            is_request_id_given: globals.request_id.is_some(),
            stopped: StoppedSystem::detect(globals, &workspace, &addresses),
            addresses,
        })))
    }

    /// The command's main request, with token and timeout. Records that the request id is sent.
    ///
    /// # Errors
    /// When `--timeout` exceeds the contract's timeout, at which both sides would end the call anyway.
    pub(crate) fn request<M: prost::Name>(&self, message: M) -> Result<tonic::Request<M>, Failure> {
        self.check_timeout::<M>()?;
        self.0.request_id.track(&message.encode_to_vec());
        self.untracked_request(message)
    }

    /// A request that does not carry the command's request id, such as a look-up. Its timeout is the smaller of
    /// `--timeout` and the contract's.
    ///
    /// # Errors
    /// When the local system is stopped and no other address was given.
    pub(crate) fn untracked_request<M: prost::Name>(&self, message: M) -> Result<tonic::Request<M>, Failure> {
        if let Some(stopped) = self
            .0
            .stopped
            .as_ref()
            .filter(|stopped| stopped.blocks(&M::full_name()))
        {
            let text = format!("nothing runs in {}: `weft up` starts it", stopped.folder);
            return Err(Failure::Other(anyhow::anyhow!(text)));
        }
        let mut context = Context::new().with_bearer(self.0.bearer.token()?);
        if let Some(timeout) = self.0.timeout {
            let limit = contract_limit::<M>().map_or(timeout, |(_, limit)| limit);
            context = context.with_timeout(timeout.min(limit));
        }
        Ok(context.request(message))
    }

    /// Checks `--timeout` against the contract before the first call, where the call with `M` comes later.
    ///
    /// # Errors
    /// When `--timeout` exceeds the contract's timeout.
    pub(crate) fn check_timeout<M: prost::Name>(&self) -> Result<(), Failure> {
        match (self.0.timeout, contract_limit::<M>()) {
            (Some(timeout), Some((method, limit))) if timeout > limit => Err(Failure::Usage(format!(
                "--timeout {} (or WEFT_TIMEOUT) is longer than the {} that the contract gives {method}",
                duration::format_exact(timeout),
                duration::format_exact(limit),
            ))),
            _ => Ok(()),
        }
    }

    /// The command's request id, the same for all requests that it sends.
    pub(crate) fn request_id(&self) -> String {
        self.0.request_id.get()
    }

    /// Whether `--request-id` was given, as it is for a repetition.
    pub(crate) fn is_request_id_given(&self) -> bool {
        self.0.is_request_id_given
    }

    /// The facility of the token; request ids derived from a file's content are unique within it.
    pub(crate) fn facility(&self) -> &str {
        &self.0.facility
    }

    pub(crate) fn order(&self) -> OrderServiceClient<Channel> {
        OrderServiceClient::new(self.0.order.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    pub(crate) fn saga(&self) -> SagaServiceClient<Channel> {
        SagaServiceClient::new(self.0.order.clone())
    }

    pub(crate) fn payment(&self) -> PaymentServiceClient<Channel> {
        PaymentServiceClient::new(self.0.payment.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    pub(crate) fn ledger(&self) -> LedgerServiceClient<Channel> {
        LedgerServiceClient::new(self.0.payment.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    pub(crate) fn claims(&self) -> ClaimServiceClient<Channel> {
        ClaimServiceClient::new(self.0.claims.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// Dead letters; every service serves those of its own consumers.
    pub(crate) fn dead_letters(&self, service: Service) -> DeadLetterServiceClient<Channel> {
        DeadLetterServiceClient::new(self.channel(service)).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// Operations on events; every service serves those of its own.
    pub(crate) fn events(&self, service: Service) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel(service))
    }

    /// Call statistics; every service serves those of its own calls.
    pub(crate) fn mesh(&self, service: Service) -> MeshServiceClient<Channel> {
        MeshServiceClient::new(self.channel(service))
    }

    fn channel(&self, service: Service) -> Channel {
        let channel = match service {
            Service::Order => &self.0.order,
            Service::Payment => &self.0.payment,
            Service::Claims => &self.0.claims,
        };
        channel.clone()
    }
}
