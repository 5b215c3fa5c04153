//! The sections of settings that every service has.

use std::path::{Path, PathBuf};

use crate::{
    Process, Violations, audit, auth, drain, health, idempotency, postgres, process::ProcessSettings, server,
    telemetry,
};

/// The chassis's sections of a service's settings. Each field has the name of its section.
#[derive(Clone, Copy, Debug)]
pub struct Sections<'a> {
    /// A file to which the bound addresses are written as `{"grpc": "…", "probe": "…"}` once the process listens.
    pub address_file: Option<&'a Path>,
    /// The gRPC port and its limits.
    pub grpc: &'a server::Settings,
    /// The probe port.
    pub probe: &'a health::Settings,
    /// The service's database.
    pub database: &'a postgres::Settings,
    /// Trusted token issuers, and the key for the service's own tokens.
    pub auth: &'a auth::Settings,
    /// How long responses are kept.
    pub idempotency: &'a idempotency::Settings,
    /// How long the audit trail is kept.
    pub audit: &'a audit::Settings,
    /// Logs; traces and metrics are set by `OTEL_*`.
    pub telemetry: &'a telemetry::Settings,
    /// Time limits of the shutdown.
    pub drain: &'a drain::Settings,
}

/// The [`Sections`] of settings whose fields have the sections' names.
#[macro_export]
macro_rules! sections {
    ($settings:expr) => {
        $crate::Sections {
            address_file: $settings.address_file.as_deref(),
            grpc: &$settings.grpc,
            probe: &$settings.probe,
            database: &$settings.database,
            auth: &$settings.auth,
            idempotency: &$settings.idempotency,
            audit: &$settings.audit,
            telemetry: &$settings.telemetry,
            drain: &$settings.drain,
        }
    };
}

impl Sections<'_> {
    /// A process with these settings. [`run`](crate::run()) creates it for services; tests create their own.
    ///
    /// # Errors
    /// When the contract's policies cannot be read.
    pub fn process(&self, name: &'static str) -> Result<Process, mesh::Error> {
        let settings = ProcessSettings {
            address_file: self.address_file.map(PathBuf::from),
            probe: self.probe.clone(),
            idempotency: self.idempotency.clone(),
            audit: self.audit.clone(),
            drain: self.drain.clone(),
        };
        Process::new(name, settings)
    }

    pub(crate) fn check(&self, violations: &mut Violations) {
        violations.within("grpc", |violations| self.grpc.check(violations));
        let ports = (self.grpc.listen, self.probe.listen);
        violations.require(
            ports.0 != ports.1 || ports.0.port() == 0,
            "probe.listen",
            "must not be grpc.listen",
        );
        violations.within("database", |violations| self.database.check(violations));
        violations.within("auth", |violations| self.auth.check(violations));
        violations.within("idempotency", |violations| self.idempotency.check(violations));
        violations.within("audit", |violations| self.audit.check(violations));
        violations.within("telemetry", |violations| self.telemetry.check(violations));
        violations.within("drain", |violations| self.drain.check(violations));
    }
}
