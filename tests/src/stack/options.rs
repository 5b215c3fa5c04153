//! Options of a stack.

use std::collections::BTreeMap;

use crate::{Durability, Service};

/// Options of a stack.
#[derive(Clone, Debug)]
pub struct Options {
    /// `None`: the fast server that all tests share and that must not be stopped. Otherwise a server of the
    /// stack's own.
    pub postgres: Option<Durability>,
    /// Whether the stack's own PostgreSQL loads `pg_stat_statements`.
    pub count_statements: bool,
    /// Services to start. All have a database and an address, started or not.
    pub services: Vec<Service>,
    /// Additional settings: service, dotted name, value.
    pub settings: Vec<(Service, String, String)>,
    /// The password in the services' database URLs, which the server requires. `None`: no password is needed.
    pub database_password: Option<String>,
    /// Environment variables of all services (`OTEL_…`).
    pub environment: BTreeMap<String, String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            postgres: None,
            count_statements: false,
            services: Service::ALL.to_vec(),
            settings: Vec::new(),
            database_password: None,
            environment: BTreeMap::new(),
        }
    }
}

impl Options {
    /// Uses a PostgreSQL of the stack's own, which may be stopped and killed.
    #[must_use]
    pub fn own_postgres(mut self, durability: Durability) -> Options {
        self.postgres = Some(durability);
        self
    }

    /// Uses a PostgreSQL of the stack's own that counts statements, for [`SqlCounters`](crate::SqlCounters). It
    /// writes no full pages and nothing in the background, so that its counts are those of the statements alone.
    #[must_use]
    pub fn count_statements(mut self) -> Options {
        self.count_statements = true;
        self.own_postgres(Durability::Fast)
    }

    /// Adds a setting of one service, by its dotted name.
    #[must_use]
    pub fn set(mut self, service: Service, name: &str, value: &str) -> Options {
        self.settings.push((service, name.to_owned(), value.to_owned()));
        self
    }

    /// Uses a PostgreSQL of the stack's own that requires this password of the services.
    #[must_use]
    pub fn database_password(mut self, password: &str) -> Options {
        self.database_password = Some(password.to_owned());
        self.own_postgres(Durability::Fast)
    }

    /// Adds an environment variable of all services.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Options {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Starts only these services.
    #[must_use]
    pub fn only(mut self, services: &[Service]) -> Options {
        self.services = services.to_vec();
        self
    }
}
