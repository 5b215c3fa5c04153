//! `weft mesh top`: current statistics of the calls between the services.

use std::{fmt::Write as _, io::IsTerminal as _, time::Duration};

use proto::ops::v1::{GetMeshSnapshotRequest, GetMeshSnapshotResponse, MeshBreakerState, MeshEdge};
use serde_json::{Value, json};

use crate::{
    clients::Clients,
    duration,
    failure::{self, During as _, Failure},
    globals::{Format, Globals},
    output::{self, Table},
    service::Service,
};

const METHOD: &str = "ops.v1.MeshService/GetMeshSnapshot";
/// The terminal sequence that clears the screen and moves the cursor to its top.
const CLEAR_SCREEN: &str = "\x1b[2J\x1b[H";

/// Options of `weft mesh top`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often the table is drawn anew, such as 500ms or 5s
    #[arg(long, default_value = "2s", value_parser = duration::parse)]
    interval: Duration,
    /// Draw it once, as it is when the output is no terminal
    #[arg(long)]
    once: bool,
}

pub(crate) async fn run(globals: &Globals, arguments: &Arguments) -> Result<(), Failure> {
    let clients = Clients::open(globals)?;
    if globals.output == Format::Json {
        return print_json(&clients).await;
    }
    let live = !arguments.once && std::io::stdout().is_terminal();
    loop {
        let (screen, reached) = draw(&clients).await?;
        if !live {
            print!("{screen}");
            return reached;
        }
        print!("{CLEAR_SCREEN}{screen}");
        tokio::time::sleep(arguments.interval).await;
    }
}

/// Fetches the call statistics of one service's process.
pub(crate) async fn snapshot(
    clients: &Clients,
    service: Service,
    with_methods: bool,
) -> Result<GetMeshSnapshotResponse, Failure> {
    let request = clients.request(GetMeshSnapshotRequest {
        service: String::new(),
        with_methods,
    })?;
    let answer = clients.mesh(service).get_mesh_snapshot(request).await;
    Ok(answer.during(METHOD)?.into_inner())
}

async fn print_json(clients: &Clients) -> Result<(), Failure> {
    let mut services = Vec::new();
    for service in Service::ALL {
        services.push(output::json(&snapshot(clients, service, false).await?)?);
    }
    output::print_json(&json!({ "services": Value::Array(services) }))
}

/// The whole screen, and an error if no service answered.
async fn draw(clients: &Clients) -> Result<(String, Result<(), Failure>), Failure> {
    let mut edges = edge_table();
    let mut endpoints = endpoint_table();
    let mut unreachable = String::new();
    let mut reached = Err(None);
    for service in Service::ALL {
        match snapshot(clients, service, false).await {
            Ok(answer) => {
                reached = Ok(());
                for edge in &answer.edges {
                    add_rows(&mut edges, &mut endpoints, &answer.caller, edge);
                }
            }
            Err(Failure::Call(call)) => {
                let line = failure::one_line(&call.status);
                // Writing to a `String` cannot fail.
                let _ = writeln!(unreachable, "{} does not answer: {line}", service.name());
                if reached.is_err() {
                    reached = Err(Some(Failure::Call(call)));
                }
            }
            Err(other) => return Err(other),
        }
    }
    let outcome = match reached {
        Err(Some(failure)) => Err(failure),
        _ => Ok(()),
    };
    Ok((format!("{edges}\n{endpoints}{unreachable}"), outcome))
}

fn edge_table() -> Table {
    Table::new(
        [
            "EDGE",
            ">CALLS/S",
            ">ACTUAL",
            ">EFFECTIVE",
            ">P50",
            ">P95",
            ">P99",
            ">IN FLIGHT",
            ">BUDGET",
            ">REFUSED",
            "FAILING",
        ],
        "no service calls another",
    )
}

fn endpoint_table() -> Table {
    Table::new(
        [
            "EDGE",
            "ENDPOINT",
            ">WEIGHT",
            ">LATENCY",
            ">IN FLIGHT",
            "BREAKER",
            ">LEFT",
            "REASON",
        ],
        "no endpoints",
    )
}

fn add_rows(edges: &mut Table, endpoints: &mut Table, caller: &str, edge: &MeshEdge) {
    let name = format!("{caller} > {}", edge.service);
    let traffic = edge.traffic.unwrap_or_default();
    let in_flight: u32 = edge.endpoints.iter().map(|endpoint| endpoint.in_flight).sum();
    edges.row([
        name.clone(),
        format!("{:.1}", traffic.calls_per_second),
        percent(traffic.actual_success),
        percent(traffic.effective_success),
        millis(traffic.p50_ms),
        millis(traffic.p95_ms),
        millis(traffic.p99_ms),
        in_flight.to_string(),
        edge.retries_left.to_string(),
        percent(Some(edge.refusal)),
        edge.failing.clone(),
    ]);
    for endpoint in &edge.endpoints {
        let breaker = if endpoint.connected {
            output::short_name(endpoint.breaker().as_str_name())
        } else {
            "DISCONNECTED".to_owned()
        };
        let ejected = endpoint.breaker() == MeshBreakerState::Ejected;
        endpoints.row([
            name.clone(),
            endpoint.address.clone(),
            format!("{:.2}", endpoint.weight),
            millis(Some(endpoint.latency_ms)),
            endpoint.in_flight.to_string(),
            breaker,
            if ejected {
                duration::format_rounded(Duration::from_millis(endpoint.ejected_for_ms))
            } else {
                String::new()
            },
            if endpoint.failure.is_empty() {
                endpoint.breaker_reason.clone()
            } else {
                endpoint.failure.clone()
            },
        ]);
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", share * 100.0))
}

fn millis(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1} ms"))
}

#[cfg(test)]
mod tests {
    use proto::ops::v1::{MeshEndpoint, MeshTraffic};

    use super::*;

    #[test]
    fn an_edge_shows_success_before_and_after_retries_and_an_ejection_its_reason_and_time() {
        let edge = MeshEdge {
            service: "payment".to_owned(),
            traffic: Some(MeshTraffic {
                calls_per_second: 12.0,
                effective_success: Some(1.0),
                actual_success: Some(0.9),
                p99_ms: Some(12.34),
                ..MeshTraffic::default()
            }),
            endpoints: vec![MeshEndpoint {
                address: "127.0.0.1:7102".to_owned(),
                connected: true,
                breaker: MeshBreakerState::Ejected.into(),
                breaker_reason: "7 failures in a row".to_owned(),
                ejected_for_ms: 800,
                ..MeshEndpoint::default()
            }],
            ..MeshEdge::default()
        };
        let (mut edges, mut endpoints) = (edge_table(), endpoint_table());
        add_rows(&mut edges, &mut endpoints, "order", &edge);
        let (edges, endpoints) = (edges.to_string(), endpoints.to_string());
        for cell in ["order > payment", "12.0", "90.0%", "100.0%", "12.3 ms"] {
            assert!(edges.contains(cell), "{cell} is not in\n{edges}");
        }
        for cell in ["127.0.0.1:7102", "EJECTED", "800 ms", "7 failures in a row"] {
            assert!(endpoints.contains(cell), "{cell} is not in\n{endpoints}");
        }
    }
}
