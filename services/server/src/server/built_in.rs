//! The services that every server has.

use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;

use super::reflection;
use crate::health::HealthService;

/// Health, and reflection in both of its versions.
pub(super) const BUILT_IN: [&str; 3] = [
    HealthServer::<HealthService>::NAME,
    reflection::SERVICES[0],
    reflection::SERVICES[1],
];
