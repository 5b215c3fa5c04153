//! `backbone-node relay|consumer|aborts-at-VERSION DATABASE_URL SETTINGS`: one part of the event backbone in a
//! process of its own, for scenarios that kill it. SETTINGS are the backbone's, as JSON. Runs until it is killed.

use std::time::Duration;

use anyhow::{Context as _, bail};
use events::{Bus, Consumer, Delivery, HandlerError, Relay, Settings};
use sqlx::postgres::PgPoolOptions;
use tests::backbone::{CONSUMER, Recorder, SUBJECT};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_ansi(false).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, database, settings] = &arguments[..] else {
        bail!("usage: backbone-node relay|consumer|aborts-at-VERSION DATABASE_URL SETTINGS");
    };
    let settings: Settings = serde_json::from_str(settings).context("SETTINGS")?;
    // The database may be down when a node starts.
    let pool = PgPoolOptions::new()
        .max_connections(16)
        .acquire_timeout(Duration::from_secs(3))
        .connect_lazy(database)?;
    let bus = Bus::connect(&settings, "order").await?;
    let stop = CancellationToken::new();
    let work = async {
        if role == "relay" {
            return Relay::new(&bus, &pool).run(stop.clone()).await;
        }
        let fatal: Option<i64> = role.strip_prefix("aborts-at-").and_then(|at| at.parse().ok());
        let decide = move |delivery: &Delivery| -> Result<(), HandlerError> {
            if fatal == Some(delivery.version) {
                std::process::abort();
            }
            Ok(())
        };
        Consumer::new(CONSUMER, &[SUBJECT], Recorder(decide))
            .run(&bus, &pool, stop.clone())
            .await
    };
    tokio::try_join!(bus.run(stop.clone()), work)?;
    Ok(())
}
