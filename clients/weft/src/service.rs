//! The services.

/// A service process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Service {
    /// Orders and sagas
    Order,
    /// Payments and the ledger
    Payment,
    /// Claims and remittances
    Claims,
}

impl Service {
    pub(crate) const ALL: [Service; 3] = [Service::Order, Service::Payment, Service::Claims];

    /// The name of the service and of its binary.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Service::Order => "order",
            Service::Payment => "payment",
            Service::Claims => "claims",
        }
    }

    /// The SPIFFE id in its certificate.
    pub(crate) fn spiffe_id(self, trust_domain: &str) -> String {
        format!("spiffe://{trust_domain}/{}", self.name())
    }

    /// The default ports, for gRPC and for probes.
    pub(crate) fn default_ports(self) -> (u16, u16) {
        match self {
            Service::Order => (7101, 7201),
            Service::Payment => (7102, 7202),
            Service::Claims => (7103, 7203),
        }
    }

    /// The service that serves a method such as `order.v1.OrderService/GetOrder`; `None` if every service does.
    pub(crate) fn by_method(method: &str) -> Option<Service> {
        let service = method.split('/').next().unwrap_or_default();
        if service == "ops.v1.SagaService" {
            return Some(Service::Order);
        }
        let package = service.split('.').next();
        Service::ALL
            .into_iter()
            .find(|known| package == Some(known.name()))
    }

    /// The gRPC service that only it serves.
    pub(crate) fn grpc_service(self) -> &'static str {
        match self {
            Service::Order => "order.v1.OrderService",
            Service::Payment => "payment.v1.PaymentService",
            Service::Claims => "claims.v1.ClaimService",
        }
    }
}
