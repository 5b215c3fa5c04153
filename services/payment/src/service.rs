//! The process: what it is made of, top to bottom.

use std::{sync::Arc, time::Duration};

use chassis::{
    Identity, PageTokens, Process, Service,
    postgres::{Database, Migrations},
    server::{CHECKED_BEFORE, Server},
};
use events::{Bus, Caller, Consumer, DeadLetters, EventOperations, Host, Task};
use mesh::policy::Role;
use proto::payment::v1::{
    ledger_service_server::LedgerServiceServer, payment_service_server::PaymentServiceServer,
};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tonic::{Extensions, Status};

use crate::{
    config::Settings,
    desk::Desk,
    expire_authorizations::expire_authorizations,
    finishing::Finishing,
    fold_ledger::fold_ledger,
    grpc::Grpc,
    resolve_unknown::resolve_unknown,
    sandbox::Sandbox,
    starting::Starting,
    subscriptions::{Orders, Remittances},
};

/// The payment service.
#[derive(Clone, Copy, Debug)]
pub struct Payment;

impl Service for Payment {
    const NAME: &'static str = "payment";
    const ABOUT: &'static str = "Takes, releases and gives back the patient's money, and keeps the ledger";
    type Settings = Settings;

    fn migrations() -> Vec<Migrations> {
        vec![
            Migrations {
                name: "events",
                migrator: sqlx::migrate!("../../migrations/events"),
            },
            Migrations {
                name: "payment",
                migrator: sqlx::migrate!("../../migrations/payment"),
            },
        ]
    }

    async fn serve(settings: Settings, process: Process) -> anyhow::Result<()> {
        let database = Database::connect(&settings.database, &process)?;
        let bus = Bus::connect(&settings.events, Self::NAME).await?;
        let outbox = bus.outbox();
        let network = Sandbox::new(card_network(&settings)?, &settings.sandbox, &process.tasks);
        let settled = (&settings.processor, &settings.authorization);
        let desk = Desk {
            tasks: process.tasks.clone(),
            starter: Starting::batcher(&database, &outbox, process.tasks.clone()),
            finisher: Finishing::batcher(&database, &outbox, settled, process.tasks.clone()),
            processor: Arc::new(network),
            outbox,
            database,
            processing: settings.processor.clone(),
            authorization: settings.authorization.clone(),
        };
        let consumers = [
            Consumer::new(Orders::NAME, &Orders::SUBJECTS, Orders),
            Consumer::new(Remittances::NAME, &Remittances::SUBJECTS, Remittances),
        ];
        bus.take_part(desk.database.pool(), consumers, host(&process));
        work(&desk, &process, settings.ledger.fold_interval());

        let page_key = settings.auth.page_key()?;
        let dead_letters = DeadLetters::new(&bus, desk.database.pool(), &page_key, operator);
        let event_operations = EventOperations::new(&bus, desk.database.pool(), operator);
        let grpc = Grpc {
            desk,
            pages: PageTokens::new(&page_key),
        };
        Server::new(&process, &settings.grpc, &settings.auth)
            .service(PaymentServiceServer::new(grpc.clone()).max_decoding_message_size(CHECKED_BEFORE))
            .service(LedgerServiceServer::new(grpc).max_decoding_message_size(CHECKED_BEFORE))
            .service(dead_letters.into_service())
            .service(event_operations.into_service())
            .serve()
            .await
    }
}

/// The sandbox's own connections: an outside party shares none with the service.
fn card_network(settings: &Settings) -> anyhow::Result<PgPool> {
    let options = settings
        .database
        .url
        .connect_options()?
        .application_name("sandbox card network");
    Ok(PgPoolOptions::new()
        .max_connections(settings.sandbox.max_connections)
        .acquire_timeout(settings.processor.timeout())
        .connect_lazy_with(options))
}

/// What the process lends to the event backbone.
fn host(process: &Process) -> Host<impl Fn(&'static str, Task), impl Fn(bool) + Send + 'static> {
    let (tasks, nats) = (process.tasks.clone(), process.health.dependency("nats"));
    Host {
        spawn: move |name, task| tasks.spawn(name, async move { Ok(task.await?) }),
        broker: move |usable| {
            if usable {
                nats.up();
            } else {
                nats.down(&"the broker cannot be used");
            }
        },
        shutdown: process.shutdown.clone(),
        drained: process.drained.clone(),
        build: chassis::build(),
    }
}

/// What is done without being asked.
fn work(desk: &Desk, process: &Process, fold_interval: Duration) {
    let resolving = resolve_unknown(desk.clone(), process.shutdown.clone());
    process.tasks.spawn("resolve unknown", async move {
        resolving.await;
        Ok(())
    });
    let expiring = expire_authorizations(desk.clone(), process.shutdown.clone());
    process.tasks.spawn("expire authorizations", async move {
        expiring.await;
        Ok(())
    });
    let folding = fold_ledger(desk.clone(), fold_interval, process.shutdown.clone());
    process.tasks.spawn("fold ledger", async move {
        folding.await;
        Ok(())
    });
}

fn operator(extensions: &Extensions) -> Result<Caller, Status> {
    let identity = Identity::within(extensions)?;
    Ok(Caller {
        facility: identity.facility.to_string(),
        subject: identity.subject.clone(),
        administrator: identity.roles.has(Role::Admin),
    })
}
