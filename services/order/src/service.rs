//! Assembles the process, top to bottom.

use std::sync::Arc;

use chassis::{
    PageTokens, Process, Service,
    auth::ServiceTokens,
    batch::{Batcher, Limits},
    postgres::{Database, Migrations},
    retention,
    server::NO_DECODING_LIMIT,
    server::Server,
};
use events::{Bus, Consumer, DeadLetters, EventOperations, Operator};
use proto::{
    ops::v1::saga_service_server::SagaServiceServer, order::v1::order_service_server::OrderServiceServer,
};

use crate::{
    accept_orders::AcceptOrders,
    app::App,
    config::Settings,
    grpc::Grpc,
    order_notifier::OrderNotifier,
    saga::{self, Engine, Participants, Parts, ServiceCredentials, Worker},
    subscriptions::{ClaimEvents, PaymentEvents},
};

/// The order service as a process.
#[derive(Clone, Copy, Debug)]
pub struct Orders;

impl Service for Orders {
    const NAME: &'static str = "order";
    const ABOUT: &'static str = "Accepts orders and takes them through payment, claim and settlement";
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
        let database = process.connect_database(&settings.database)?;
        let pool = database.pool().clone();
        let bus = Bus::connect(&settings.events, Self::NAME).await?;
        let rules = vec![settings.saga.retention()];
        retention::start(&process.tasks, database.pool(), process.sweep_interval(), rules);
        let app = build_app(&settings, &process, database, &bus)?;

        bus.start(&process, &pool, consumers(&app));
        let worker = Worker::new(app.engine.clone()).run(process.drained.clone());
        process.tasks.spawn("saga worker", worker);
        let metrics = saga::run_metrics(app.database.clone(), process.shutdown.clone());
        process.tasks.spawn("saga metrics", async move {
            metrics.await;
            Ok(())
        });

        let dead_letters =
            DeadLetters::new(&bus, &pool, &settings.auth.page_key()?, Operator::from_extensions);
        let event_operations = EventOperations::new(&bus, &pool, Operator::from_extensions);
        let grpc = Grpc {
            app,
            process: process.clone(),
        };
        Server::new(&process, &settings.grpc, &settings.auth)
            .service(OrderServiceServer::new(grpc.clone()).max_decoding_message_size(NO_DECODING_LIMIT))
            .service(SagaServiceServer::new(grpc).max_decoding_message_size(NO_DECODING_LIMIT))
            .service(dead_letters.into_service())
            .service(event_operations.into_service())
            .serve()
            .await
    }
}

fn build_app(settings: &Settings, process: &Process, database: Database, bus: &Bus) -> anyhow::Result<App> {
    let payment = process.channel("payment", &settings.payment)?;
    let claims = process.channel("claims", &settings.claims)?;
    let credentials = ServiceCredentials {
        tokens: ServiceTokens::new(Orders::NAME, &settings.auth)?,
        timeout: settings.saga.step_timeout(),
    };
    let participants = Participants::new(payment, claims, &credentials, &process.tasks);
    let order_notifier = OrderNotifier::default();
    let polling = order_notifier.clone().poll(
        database.clone(),
        settings.orders.watch_poll(),
        process.drained.clone(),
    );
    process.tasks.spawn("order notifier", async move {
        polling.await;
        Ok(())
    });
    let denial_policy = Arc::new(settings.denials.clone());
    let engine = Engine::new(Parts {
        tasks: process.tasks.clone(),
        database: database.clone(),
        participants: participants.clone(),
        credentials,
        outbox: bus.outbox(),
        order_notifier: order_notifier.clone(),
        denial_policy: denial_policy.clone(),
        settings: settings.saga.clone(),
        payment_window: settings.orders.payment_window(),
    });
    let accept = AcceptOrders {
        database: database.clone(),
        outbox: bus.outbox(),
    };
    Ok(App {
        accept_orders: Batcher::new(accept, Limits::default(), process.tasks.clone()),
        database,
        engine,
        participants,
        order_notifier,
        outbox: bus.outbox(),
        page_tokens: PageTokens::new(&settings.auth.page_key()?),
        denial_policy,
        orders: settings.orders.clone(),
        stuck_after: settings.saga.stuck_after(),
    })
}

fn consumers(app: &App) -> [Consumer; 2] {
    let claims = ClaimEvents(app.denial_policy.clone());
    let payments = PaymentEvents {
        clock: app.database.clock().clone(),
        stuck_after: app.stuck_after,
        active_sagas: app.engine.active_sagas(),
    };
    [
        Consumer::new(ClaimEvents::NAME, &ClaimEvents::SUBJECTS, claims),
        Consumer::new(PaymentEvents::NAME, &PaymentEvents::SUBJECTS, payments),
    ]
}
