//! The process: what it is made of, top to bottom.

use std::sync::Arc;

use chassis::{
    Identity, PageTokens, Process, Server, Service,
    health::Dependency,
    postgres::{Database, Migrations},
    status,
};
use events::{Bus, Caller, Consumer, DeadLetters, Relay, Upkeep};
use proto::claims::v1::claim_service_server::ClaimServiceServer;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Status};

use crate::{
    config::Settings, desk::Desk, follow_up, grpc::Grpc, post_office::sandbox::Sandbox,
    subscriptions::EndedOrders,
};

/// The claims service.
#[derive(Clone, Copy, Debug)]
pub struct Claims;

impl Service for Claims {
    const NAME: &'static str = "claims";
    const ABOUT: &'static str = "Files claims with the post office and reads what payers answer";
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
        let database = Database::connect(&settings.database, &process)?;
        let bus = Bus::connect(&settings.events, Self::NAME).await?;
        let desk = Desk {
            post_office: Arc::new(Sandbox::new(database.clone(), settings.sandbox.clone())),
            outbox: bus.outbox(),
            database,
            filing: settings.post_office.clone(),
            import: settings.import.clone(),
        };
        take_part(&bus, desk.database.pool(), &process);
        process.tasks.spawn(
            "follow up",
            follow_up::run(desk.clone(), process.shutdown.clone()),
        );

        let page_key = page_key(&settings);
        let dead_letters = DeadLetters::new(&bus, desk.database.pool(), &page_key, operator);
        let grpc = Grpc {
            desk,
            pages: PageTokens::new(&page_key),
        };
        Server::new(&process, &settings.grpc, &settings.auth)
            .service(ClaimServiceServer::new(grpc))
            .service(dead_letters.into_service())
            .serve()
            .await
    }
}

/// The event backbone, and what is consumed.
fn take_part(bus: &Bus, pool: &PgPool, process: &Process) {
    let stop = || process.shutdown.clone();
    let (running, shutdown) = (bus.clone(), stop());
    process
        .tasks
        .spawn("bus", async move { Ok(running.run(shutdown).await?) });
    let relay = Relay::new(bus, pool).run(stop());
    process.tasks.spawn("relay", async move { Ok(relay.await?) });
    let upkeep = Upkeep::new(bus, pool).run(stop());
    process
        .tasks
        .spawn("event upkeep", async move { Ok(upkeep.await?) });
    let (bus_of_consumer, database, shutdown) = (bus.clone(), pool.clone(), stop());
    let consumer = Consumer::new(EndedOrders::NAME, &EndedOrders::SUBJECTS, EndedOrders)
        .handler_version(env!("CARGO_PKG_VERSION"));
    process.tasks.spawn(EndedOrders::NAME, async move {
        Ok(consumer.run(&bus_of_consumer, &database, shutdown).await?)
    });
    let following = follow(bus.status(), process.health.dependency("nats"), stop());
    process.tasks.spawn("nats watch", async move {
        following.await;
        Ok(())
    });
}

/// Keeps readiness true to what the broker says.
async fn follow(mut status: watch::Receiver<bool>, dependency: Dependency, shutdown: CancellationToken) {
    loop {
        if *status.borrow_and_update() {
            dependency.up();
        } else {
            dependency.down(&"the broker cannot be used");
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}

fn operator(extensions: &Extensions) -> Result<Caller, Status> {
    let identity = extensions.get::<Identity>();
    let identity = identity.ok_or_else(|| status::unauthenticated("NO_TOKEN", "the call needs a token"))?;
    Ok(Caller {
        facility: identity.facility.to_string(),
        subject: identity.subject.clone(),
    })
}

fn page_key(settings: &Settings) -> Vec<u8> {
    if settings.pages.secret.is_set() {
        return settings.pages.secret.expose().as_bytes().to_vec();
    }
    rand::random::<[u8; 32]>().to_vec()
}
