//! Greets: `server PORT`. Health is served on the next port, and SIGTERM stops it without failing a call. With
//! `TLS_FOLDER`, connections need mutual TLS by the folder's `ca.pem`, `cert.pem` and `key.pem`.

use std::{env, path::PathBuf, time::Duration};

use greeter::{
    DESCRIPTORS, SayHelloRequest, SayHelloResponse,
    greeter_service_server::{GreeterService, GreeterServiceServer},
};
use tonic::{Request, Response, Status};
use weft_server::{Server, health, server};

struct Greeter {
    port: u16,
}

#[tonic::async_trait]
impl GreeterService for Greeter {
    async fn say_hello(
        &self,
        request: Request<SayHelloRequest>,
    ) -> Result<Response<SayHelloResponse>, Status> {
        let request = request.into_inner();
        tokio::time::sleep(Duration::from_millis(request.work_ms.into())).await;
        Ok(Response::new(SayHelloResponse {
            greeting: format!("Hello {}", request.name),
            port: self.port.into(),
        }))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let port: u16 = env::args().nth(1).unwrap_or("50051".to_owned()).parse()?;
    let mut settings = server::Settings::on_port(port);
    settings.tls = env::var_os("TLS_FOLDER").map(|folder| tls(PathBuf::from(folder)));
    let server = Server::new("greeter")
        .contract(DESCRIPTORS)?
        .settings(settings)
        .probe(health::Settings::on_port(port + 1));
    server.lifecycle().stop_on_signals()?;
    server
        .service(GreeterServiceServer::new(Greeter { port }))
        .serve()
        .await
}

fn tls(folder: PathBuf) -> server::tls::Settings {
    server::tls::Settings {
        cert_file: folder.join("cert.pem"),
        key_file: folder.join("key.pem"),
        client_ca_file: folder.join("ca.pem"),
        trust_domain: "example.org".to_owned(),
        client_ids: Vec::new(),
        service_ids: Default::default(),
    }
}
