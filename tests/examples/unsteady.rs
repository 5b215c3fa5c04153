//! A proxy before the order service that rejects each call twice, to observe retries by hand: `cargo run -p tests
//! --example unsteady -- 127.0.0.1:7101`, then call 127.0.0.1:7109 instead.

use std::env;

use tests::{Attempt, FaultAction, GrpcFaultProxy};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let service = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7101".to_owned());
    let proxy = GrpcFaultProxy::start("127.0.0.1:7109", &service, refuse_twice).await?;
    println!("{} leads to {service}, at the third attempt", proxy.address());
    tokio::signal::ctrl_c().await?;
    Ok(())
}

fn refuse_twice(attempt: &Attempt) -> FaultAction {
    let action = if attempt.previous < 2 {
        FaultAction::Reject
    } else {
        FaultAction::Forward
    };
    println!(
        "{}, {} attempts before it: {action:?}",
        attempt.method, attempt.previous
    );
    action
}
