use std::sync::Arc;

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
mod progress;
pub(crate) mod runs;
mod show;
mod tail;

use page::Tokens;

pub use events::EventOperations;

/// Who calls, as the service's authentication found it.
#[derive(Clone, Debug)]
pub struct Operator {
    /// The facility whose rows the caller may see.
    pub facility: String,
    /// The subject of the token, for the audit trail.
    pub subject: String,
    /// Whether the caller is an administrator, who also sees dead letters whose message names no readable
    /// facility.
    pub administrator: bool,
}

impl Operator {
    /// The facilities whose dead letters the caller may see. The empty one is that of the unassigned.
    fn facilities(&self) -> Vec<String> {
        let mut facilities = vec![self.facility.clone()];
        if self.administrator {
            facilities.push(String::new());
        }
        facilities
    }

    /// A transaction that sees what the caller may see.
    async fn begin(&self, pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let unassigned = if self.administrator {
            Unassigned::Visible
        } else {
            Unassigned::Hidden
        };
        store::begin_seeing(pool, &self.facility, unassigned).await
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
    /// `page_key` signs page tokens: any secret of 16 bytes or more that all replicas share. `operator` reads what
    /// the server's authentication put into the request's extensions.
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

    /// The service to mount.
    pub fn into_service(self) -> DeadLetterServiceServer<Self> {
        DeadLetterServiceServer::new(self).max_decoding_message_size(chassis::server::CHECKED_BEFORE)
    }
}
