//! Stands before the order service and refuses each call twice, so that retries can be watched by hand:
//! `cargo run -p tests --example unsteady -- 127.0.0.1:7101`, then call 127.0.0.1:7109 instead.

use std::env;

use tests::{Attempt, Door, Manner};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let service = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7101".to_owned());
    let door = Door::open("127.0.0.1:7109", &service, refuse_twice).await?;
    println!("{} leads to {service}, at the third attempt", door.address());
    tokio::signal::ctrl_c().await?;
    Ok(())
}

fn refuse_twice(attempt: &Attempt) -> Manner {
    let manner = if attempt.previous < 2 {
        Manner::Refuse
    } else {
        Manner::Pass
    };
    println!(
        "{}, {} attempts before it: {manner:?}",
        attempt.method, attempt.previous
    );
    manner
}
