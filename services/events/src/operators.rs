use std::sync::Arc;

use chassis::auth::Role;
use proto::ops::v1::dead_letter_service_server::DeadLetterServiceServer;
use sqlx::{PgPool, Postgres, Transaction};
use tonic::{Extensions, Status};

use crate::{
    Bus,
    store::{self, Unassigned},
};

mod actions;
mod consumers;
mod dead_letters;
mod dry_run;
mod edits;
mod error;
mod events;
mod grpc;
mod held;
mod page;
pub(crate) mod progress;
mod replays;
pub(crate) mod runs;
mod show;
mod tail;

use page::Tokens;

pub use events::EventOperations;

/// An operator, as authenticated by the service.
#[derive(Clone, Debug)]
pub struct Operator {
    /// The facility whose rows the operator may see.
    pub facility: String,
    /// The subject of the token, for the audit trail.
    pub subject: String,
    /// Whether the operator is an administrator, who also sees dead letters whose message has no valid facility.
    pub administrator: bool,
}

impl Operator {
    /// The authenticated caller.
    ///
    /// # Errors
    /// UNAUTHENTICATED when the call was not authenticated.
    pub fn from_extensions(extensions: &Extensions) -> Result<Operator, Status> {
        let identity = chassis::Identity::from_extensions(extensions)?;
        Ok(Operator {
            facility: identity.facility.to_string(),
            subject: identity.subject.clone(),
            administrator: identity.roles.has(Role::Admin),
        })
    }

    /// The facilities whose dead letters the operator may see. The empty one stands for messages without a
    /// facility.
    fn facilities(&self) -> Vec<String> {
        let mut facilities = vec![self.facility.clone()];
        if self.administrator {
            facilities.push(String::new());
        }
        facilities
    }

    /// Begins a transaction that sees the operator's rows.
    async fn begin(&self, pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let unassigned = if self.administrator {
            Unassigned::Visible
        } else {
            Unassigned::Hidden
        };
        store::begin_with_visibility(pool, &self.facility, unassigned).await
    }
}

/// `ops.v1.DeadLetterService` over the service's own database. An operator sees the dead letters of one facility.
#[derive(Clone)]
pub struct DeadLetters(Arc<Inner>);

struct Inner {
    bus: Bus,
    pool: PgPool,
    tokens: Tokens,
    authenticate: Box<Authenticate>,
}

type Authenticate = dyn Fn(&Extensions) -> Result<Operator, Status> + Send + Sync;

impl DeadLetters {
    /// `page_key` signs page tokens: any secret of 16 bytes or more that all replicas share. `authenticate` reads
    /// the operator from the request's extensions, where the server's authentication has stored it.
    pub fn new(
        bus: &Bus,
        pool: &PgPool,
        page_key: &[u8],
        authenticate: impl Fn(&Extensions) -> Result<Operator, Status> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            bus: bus.clone(),
            pool: pool.clone(),
            tokens: Tokens::new(page_key),
            authenticate: Box::new(authenticate),
        }))
    }

    /// The gRPC service for the server.
    pub fn into_service(self) -> DeadLetterServiceServer<Self> {
        DeadLetterServiceServer::new(self).max_decoding_message_size(chassis::server::NO_DECODING_LIMIT)
    }
}
