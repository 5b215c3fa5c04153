//! Calls the servers at the given ports, balanced over all that work: `client PORT PORT …`.

use std::{env, time::Duration};

use greeter::{DESCRIPTORS, SayHelloRequest, greeter_service_client::GreeterServiceClient};
use weft_mesh::{CallPolicy, Channel, policy::Retry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let endpoints: Vec<_> = env::args()
        .skip(1)
        .map(|port| format!("http://127.0.0.1:{port}"))
        .collect();
    let policy = CallPolicy::new()
        .timeout(Duration::from_secs(1))
        .retry(Retry::new(3));
    let channel = Channel::builder(format!("static:{}", endpoints.join(",")))
        .contract(DESCRIPTORS)
        .policy("greeter.v1.GreeterService", policy)
        .connect()?;
    let mut client = GreeterServiceClient::new(channel);
    for name in ["Amal", "Bilal", "Chaya"] {
        let request = SayHelloRequest {
            name: name.to_owned(),
            work_ms: 0,
        };
        let response = client.say_hello(request).await?.into_inner();
        println!("{} (from port {})", response.greeting, response.port);
    }
    Ok(())
}
