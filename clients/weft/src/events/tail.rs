//! `weft events tail`: prints the events of one service or all as they are published.

use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt as _, stream::select_all};
use proto::ops::v1::{TailEventsRequest, TailEventsResponse};
use tonic::Code;

use super::{ServiceFilter, to_proto_duration};
use crate::{
    clients::Clients,
    duration,
    failure::{During as _, Failure},
    globals::Format,
    output::{self, timestamp},
    suggestion,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    filter: ServiceFilter,
    /// Begin this far back; by default with the next event
    #[arg(long, value_parser = duration::parse)]
    since: Option<Duration>,
    /// Only events of this type, such as `order.v1.OrderConfirmed`
    #[arg(long = "type", value_name = "TYPE")]
    type_name: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
}

pub(crate) async fn run(clients: &Clients, format: Format, arguments: Arguments) -> Result<(), Failure> {
    const METHOD: &str = "ops.v1.EventService/TailEvents";
    if let Some(name) = &arguments.type_name {
        check_event_type(name)?;
    }
    let mut left = arguments.count.unwrap_or(u32::MAX);
    let mut since = arguments.since;
    while left > 0 {
        let mut tails = Vec::new();
        for service in arguments.filter.services() {
            let request = TailEventsRequest {
                since: since.map(to_proto_duration),
                subject: String::new(),
            };
            let answer = clients
                .events(service)
                .tail_events(clients.request(request)?)
                .await;
            tails.push(answer.during(METHOD)?.into_inner());
        }
        let mut events = select_all(tails);
        while left > 0 {
            let Some(event) = events.next().await else {
                return Ok(());
            };
            match event {
                Ok(event) => {
                    if arguments
                        .type_name
                        .as_ref()
                        .is_none_or(|wanted| *wanted == event.event_type)
                    {
                        print(format, &event)?;
                        left -= 1;
                    }
                }
                // A call ends at the contract's timeout; the next one continues.
                Err(status) if status.code() == Code::DeadlineExceeded => break,
                Err(status) => return Err(status).during(METHOD),
            }
        }
        since = None;
    }
    Ok(())
}

/// Refuses an event type that is not in the contract.
fn check_event_type(type_name: &str) -> Result<(), Failure> {
    let pool = output::pool()?;
    if pool.get_message_by_name(type_name).is_some() {
        return Ok(());
    }
    let names: Vec<String> = pool
        .all_messages()
        .map(|message| message.full_name().to_owned())
        .collect();
    let suggestion = suggestion::did_you_mean(type_name, names.iter().map(String::as_str));
    Err(Failure::Usage(format!(
        "the contract has no event type `{type_name}`{suggestion}"
    )))
}

fn print(format: Format, event: &TailEventsResponse) -> Result<(), Failure> {
    if format == Format::Json {
        // One document per line, for programs that read a stream.
        println!("{}", output::json(event)?);
        return Ok(());
    }
    println!(
        "{} {} {} {} version {} {}",
        timestamp(event.publish_time.as_ref()),
        event.facility,
        event.event_type,
        event.aggregate_id,
        event.aggregate_version,
        event.body_json
    );
    Ok(())
}
