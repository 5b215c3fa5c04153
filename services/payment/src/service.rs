//! Assembles the process from its parts.

use std::{sync::Arc, time::Duration};

use chassis::{
    PageTokens, Process, Service,
    postgres::Migrations,
    server::{NO_DECODING_LIMIT, Server},
};
use events::{Bus, Consumer, DeadLetters, EventOperations, Operator};
use proto::payment::v1::{
    ledger_service_server::LedgerServiceServer, payment_service_server::PaymentServiceServer,
};
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::{
    app::App,
    begin_operations::BeginOperations,
    config::Settings,
    grpc::Grpc,
    record_outcomes::RecordOutcomes,
    sandbox::Sandbox,
    subscriptions::{Orders, Remittances},
    worker::{expire_authorizations, fold_ledger, resolve_unknown},
};

/// The payment service.
#[derive(Clone, Copy, Debug)]
pub struct Payment;

impl Service for Payment {
    const NAME: &'static str = "payment";
    const ABOUT: &'static str =
        "Authorizes, captures, voids and refunds the patient's payments, and keeps the ledger";
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
        let database = process.connect_database(&settings.database)?;
        let bus = Bus::connect(&settings.events, Self::NAME).await?;
        let outbox = bus.outbox();
        let network = Sandbox::new(card_network(&settings)?, &settings.sandbox, &process.tasks);
        let outcome_settings = (&settings.processor, &settings.authorization);
        let app = App {
            tasks: process.tasks.clone(),
            begin_batcher: BeginOperations::batcher(&database, &outbox, process.tasks.clone()),
            record_batcher: RecordOutcomes::batcher(
                &database,
                &outbox,
                outcome_settings,
                process.tasks.clone(),
            ),
            processor: Arc::new(network),
            outbox,
            database,
            processor_settings: settings.processor.clone(),
            authorization_settings: settings.authorization.clone(),
        };
        let consumers = [
            Consumer::new(Orders::NAME, &Orders::SUBJECTS, Orders),
            Consumer::new(Remittances::NAME, &Remittances::SUBJECTS, Remittances),
        ];
        bus.start(&process, app.database.pool(), consumers);
        spawn_workers(&app, &process, settings.ledger.fold_interval());

        let page_key = settings.auth.page_key()?;
        let dead_letters = DeadLetters::new(&bus, app.database.pool(), &page_key, Operator::from_extensions);
        let event_operations = EventOperations::new(&bus, app.database.pool(), Operator::from_extensions);
        let grpc = Grpc {
            app,
            pages: PageTokens::new(&page_key),
        };
        Server::new(&process, &settings.grpc, &settings.auth)
            .service(PaymentServiceServer::new(grpc.clone()).max_decoding_message_size(NO_DECODING_LIMIT))
            .service(LedgerServiceServer::new(grpc).max_decoding_message_size(NO_DECODING_LIMIT))
            .service(dead_letters.into_service())
            .service(event_operations.into_service())
            .serve()
            .await
    }
}

/// The sandbox's connection pool. It imitates an external party, so it shares no connections with the service.
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

/// Spawns the background work.
fn spawn_workers(app: &App, process: &Process, fold_interval: Duration) {
    let resolving = resolve_unknown::run(app.clone(), process.shutdown.clone());
    process.tasks.spawn("resolve unknown", async move {
        resolving.await;
        Ok(())
    });
    let expiring = expire_authorizations::run(app.clone(), process.shutdown.clone());
    process.tasks.spawn("expire authorizations", async move {
        expiring.await;
        Ok(())
    });
    let folding = fold_ledger::run(app.clone(), fold_interval, process.shutdown.clone());
    process.tasks.spawn("fold ledger", async move {
        folding.await;
        Ok(())
    });
}
