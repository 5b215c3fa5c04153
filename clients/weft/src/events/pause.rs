//! `weft events pause|resume`: pauses and resumes a consumer.

use proto::ops::v1::{PauseConsumerRequest, ResumeConsumerRequest};
use serde_json::json;

use super::find_service;
use crate::{
    clients::Clients,
    failure::{During as _, Failure},
    globals::Format,
    output,
    service::Service,
};

pub(super) async fn pause(
    clients: &Clients,
    format: Format,
    consumer: String,
    reason: String,
) -> Result<(), Failure> {
    clients.check_timeout::<PauseConsumerRequest>()?;
    let service = find_service(clients, &consumer).await?;
    let request = PauseConsumerRequest {
        consumer: consumer.clone(),
        request_id: clients.request_id(),
        reason,
    };
    let answer = clients
        .events(service)
        .pause_consumer(clients.request(request)?)
        .await;
    answer.during("ops.v1.EventService/PauseConsumer")?;
    print(format, service, &consumer, true)?;
    eprintln!("{consumer} is held within seconds; next: weft events resume {consumer}");
    Ok(())
}

pub(super) async fn resume(clients: &Clients, format: Format, consumer: String) -> Result<(), Failure> {
    clients.check_timeout::<ResumeConsumerRequest>()?;
    let service = find_service(clients, &consumer).await?;
    let request = ResumeConsumerRequest {
        consumer: consumer.clone(),
        request_id: clients.request_id(),
    };
    let answer = clients
        .events(service)
        .resume_consumer(clients.request(request)?)
        .await;
    answer.during("ops.v1.EventService/ResumeConsumer")?;
    print(format, service, &consumer, false)?;
    eprintln!("{consumer} goes on within seconds; next: weft events lag");
    Ok(())
}

/// Prints the consumer's new state in JSON; the table format has only the text on standard error.
fn print(format: Format, service: Service, consumer: &str, paused: bool) -> Result<(), Failure> {
    match format {
        Format::Json => {
            output::print_json(&json!({"service": service.name(), "consumer": consumer, "paused": paused}))
        }
        Format::Table => Ok(()),
    }
}
