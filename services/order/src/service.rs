//! The process: what it is made of, top to bottom.

use std::sync::Arc;

use chassis::{
    Identity, Process, Service,
    auth::ServiceTokens,
    batch::{Batcher, Limits},
    postgres::{Database, Migrations},
    retention,
    server::CHECKED_BEFORE,
    server::Server,
};
use events::{Bus, Caller, Consumer, DeadLetters, EventOperations, Host, Task};
use mesh::policy::Role;
use proto::{
    ops::v1::saga_service_server::SagaServiceServer, order::v1::order_service_server::OrderServiceServer,
};
use tonic::{Extensions, Status};

use crate::{
    changes::Changes,
    config::Settings,
    desk::Desk,
    grpc::Grpc,
    place_order::AcceptOrders,
    saga::{self, Engine, Participants, Parts, ServiceCaller, Worker},
    subscriptions::{Claims, Payments},
};

/// The order service, as a process.
#[derive(Clone, Copy, Debug)]
pub struct Orders;

impl Service for Orders {
    const NAME: &'static str = "order";
    const ABOUT: &'static str = "Takes orders and sees them through payment, claim and settlement";
    type Settings = Settings;

    fn migrations() -> Vec<Migrations> {
        vec![
            Migrations {
                name: "events",
                migrator: sqlx::migrate!("../../migrations/events"),
            },
            Migrations {
                name: "order",
                migrator: sqlx::migrate!("../../migrations/order"),
            },
        ]
    }

    async fn serve(settings: Settings, process: Process) -> anyhow::Result<()> {
        let database = Database::connect(&settings.database, &process)?;
        let pool = database.pool().clone();
        let bus = Bus::connect(&settings.events, Self::NAME).await?;
        let rules = vec![settings.saga.retention()];
        retention::start(&process, &database, process.sweep_interval(), rules);
        let desk = desk(&settings, &process, database, &bus)?;

        bus.take_part(&pool, consumers(&desk), host(&process));
        let worker = Worker::new(desk.engine.clone()).run(process.drained.clone());
        process.tasks.spawn("saga worker", worker);
        let measuring = saga::measure(desk.database.clone(), process.shutdown.clone());
        process.tasks.spawn("saga backlog", async move {
            measuring.await;
            Ok(())
        });

        let dead_letters = DeadLetters::new(&bus, &pool, &settings.auth.page_key()?, operator);
        let event_operations = EventOperations::new(&bus, &pool, operator);
        let grpc = Grpc {
            desk,
            process: process.clone(),
        };
        Server::new(&process, &settings.grpc, &settings.auth)
            .service(OrderServiceServer::new(grpc.clone()).max_decoding_message_size(CHECKED_BEFORE))
            .service(SagaServiceServer::new(grpc).max_decoding_message_size(CHECKED_BEFORE))
            .service(dead_letters.into_service())
            .service(event_operations.into_service())
            .serve()
            .await
    }
}

fn desk(settings: &Settings, process: &Process, database: Database, bus: &Bus) -> anyhow::Result<Desk> {
    let payment = process.channel("payment", &settings.payment)?;
    let claims = process.channel("claims", &settings.claims)?;
    let caller = ServiceCaller {
        tokens: ServiceTokens::new(Orders::NAME, &settings.auth)?,
        timeout: settings.saga.step_timeout(),
    };
    let participants = Participants::new(payment, claims, &caller, &process.tasks);
    let changes = Changes::default();
    let polled = changes.clone().poll(
        database.clone(),
        settings.orders.watch_poll(),
        process.drained.clone(),
    );
    process.tasks.spawn("changes of orders", async move {
        polled.await;
        Ok(())
    });
    let denials = Arc::new(settings.denials.clone());
    let engine = Engine::new(Parts {
        tasks: process.tasks.clone(),
        database: database.clone(),
        participants: participants.clone(),
        caller,
        outbox: bus.outbox(),
        changes: changes.clone(),
        denials: denials.clone(),
        settings: settings.saga.clone(),
        payment_window: settings.orders.payment_window(),
    });
    let accept = AcceptOrders {
        database: database.clone(),
        outbox: bus.outbox(),
    };
    Ok(Desk {
        accepting: Batcher::new(accept, Limits::default(), process.tasks.clone()),
        database,
        engine,
        participants,
        changes,
        outbox: bus.outbox(),
        pages: settings.auth.page_tokens()?,
        denials,
        orders: settings.orders.clone(),
        patience: settings.saga.patience(),
    })
}

fn consumers(desk: &Desk) -> [Consumer; 2] {
    let claims = Claims(desk.denials.clone());
    let payments = Payments {
        clock: desk.database.clock().clone(),
        patience: desk.patience,
        driven: desk.engine.driven(),
    };
    [
        Consumer::new(Claims::NAME, &Claims::SUBJECTS, claims),
        Consumer::new(Payments::NAME, &Payments::SUBJECTS, payments),
    ]
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

fn operator(extensions: &Extensions) -> Result<Caller, Status> {
    let identity = Identity::within(extensions)?;
    Ok(Caller {
        facility: identity.facility.to_string(),
        subject: identity.subject.clone(),
        administrator: identity.roles.has(Role::Admin),
    })
}
