//! Settings of each service of a stack.

use std::{collections::BTreeMap, path::Path};

use super::Options;
use crate::{Database, Issuer, Nats, Service, binaries, service::Instance, token};

/// Configures every service with its servers, its peers and the trusted issuer.
pub(super) async fn wire(
    options: &Options,
    folder: &Path,
    issuer: &Issuer,
    nats: &Nats,
    databases: &BTreeMap<Service, Database>,
) -> BTreeMap<Service, Instance> {
    let mut instances = BTreeMap::new();
    for service in Service::ALL {
        let program = binaries::program(service.name()).await;
        instances.insert(
            service,
            Instance::new(service.name(), program, folder.join(format!("{service}.log"))),
        );
    }
    let targets: Vec<(Service, String)> = instances
        .iter()
        .map(|(service, instance)| (*service, format!("static:http://127.0.0.1:{}", instance.grpc)))
        .collect();

    for (service, instance) in &mut instances {
        let database = &databases[service];
        let password = options.database_password.as_deref();
        let url = password.map_or_else(|| database.app_url(), |password| database.app_url_with(password));
        instance.set("database.url", url);
        instance.set("database.migrate_url", database.owner_url());
        instance.set("auth.issuer", token::ISSUER);
        instance.set("auth.audience", token::AUDIENCE);
        instance.set("auth.jwks_file", issuer.jwks_file().to_string_lossy());
        instance.set(
            "auth.signing_key_file",
            issuer.signing_key_file(*service).to_string_lossy(),
        );
        instance.set("auth.signing_key_id", service.name());
        instance.set("events.servers", nats.url());
        instance.set("events.monitor_url", nats.monitoring_url());
        instance.set("events.events_max_bytes", "1073741824");
        // On a busy machine the limit of calls in progress would fall, and the calls of tests are not retried.
        instance.set("grpc.min_in_flight", "512");
        for (peer, target) in peers(*service)
            .iter()
            .filter_map(|peer| targets.iter().find(|(name, _)| name == peer))
        {
            instance.set(&format!("{peer}.target"), target);
        }
        for (_, name, value) in options.settings.iter().filter(|(of, _, _)| of == service) {
            instance.set(name, value);
        }
        instance.environment(&options.environment);
    }
    instances
}

/// The services that a service calls; it has a setting `<peer>.target` for each.
fn peers(service: Service) -> &'static [Service] {
    match service {
        Service::Order => &[Service::Payment, Service::Claims],
        Service::Payment | Service::Claims => &[],
    }
}
