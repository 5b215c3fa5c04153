//! Assembles the process: database, event bus, background work and gRPC server.

use std::sync::Arc;

use chassis::{PageTokens, Process, Server, Service, postgres::Migrations, server::NO_DECODING_LIMIT};
use events::{Bus, Consumer, DeadLetters, EventOperations, Operator};
use proto::claims::v1::claim_service_server::ClaimServiceServer;

use crate::{
    app::App,
    apply_withdrawals::WithdrawClaims,
    config::Settings,
    grpc::Grpc,
    insert_drafts::InsertDrafts,
    post_office::sandbox::Sandbox,
    submission::{leases::Leases, outcomes::Outcomes},
    subscriptions::EndedOrders,
    upload, worker,
};

/// The claims service.
#[derive(Clone, Copy, Debug)]
pub struct Claims;

impl Service for Claims {
    const NAME: &'static str = "claims";
    const ABOUT: &'static str = "Submits claims to the post office and imports remittances from payers";
    type Settings = Settings;

    fn migrations() -> Vec<Migrations> {
        vec![
            Migrations {
                name: "events",
                migrator: sqlx::migrate!("../../migrations/events"),
            },
            Migrations {
                name: "claims",
                migrator: sqlx::migrate!("../../migrations/claims"),
            },
        ]
    }

    async fn serve(settings: Settings, process: Process) -> anyhow::Result<()> {
        upload::check_folder(&settings.import)?;
        let database = process.connect_database(&settings.database)?;
        let bus = Bus::connect(&settings.events, Self::NAME).await?;
        let (outbox, tasks) = (bus.outbox(), || process.tasks.clone());
        let sandbox = Sandbox::new(database.clone(), settings.sandbox.clone(), tasks());
        let app = App {
            draft_batcher: InsertDrafts::batcher(&database, &outbox, tasks()),
            leases: Leases::new(&database, &settings.post_office, tasks()),
            outcomes: Outcomes::new(&database, &outbox, &settings.post_office, tasks()),
            withdrawal_batcher: WithdrawClaims::batcher(&database, &outbox, tasks()),
            post_office: Arc::new(sandbox),
            outbox,
            database,
            post_office_settings: settings.post_office.clone(),
            import_settings: settings.import.clone(),
        };
        let consumers = [Consumer::new(
            EndedOrders::NAME,
            &EndedOrders::SUBJECTS,
            EndedOrders,
        )];
        bus.start(&process, app.database.pool(), consumers);
        process.tasks.spawn(
            "submission worker",
            worker::run(app.clone(), process.shutdown.clone()),
        );

        let page_key = settings.auth.page_key()?;
        let dead_letters = DeadLetters::new(&bus, app.database.pool(), &page_key, Operator::from_extensions);
        let event_operations = EventOperations::new(&bus, app.database.pool(), Operator::from_extensions);
        let grpc = Grpc {
            app,
            pages: PageTokens::new(&page_key),
        };
        Server::new(&process, &settings.grpc, &settings.auth)
            .service(ClaimServiceServer::new(grpc).max_decoding_message_size(NO_DECODING_LIMIT))
            .service(dead_letters.into_service())
            .service(event_operations.into_service())
            .serve()
            .await
    }
}
