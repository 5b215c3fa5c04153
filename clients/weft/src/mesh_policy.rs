//! `weft mesh policy`: the call policy of methods, as the contract declares it or as a running service applies it.

use clap::Subcommand;
use mesh::{MethodPolicy, policy::Idempotency};
use serde_json::{Value, json};

use crate::{
    clients::Clients,
    duration,
    failure::Failure,
    globals::{Format, Globals},
    mesh_top,
    output::{self, Table},
    policies,
    service::Service,
    suggestion,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the calls between the services, drawn anew until Ctrl-C
    Top(mesh_top::Arguments),
    /// Print the policy of a method, or of all of them
    Policy {
        /// The method, such as order.v1.OrderService/PlaceOrder, or a part of its name
        method: Option<String>,
        /// Ask this service how it calls others, with its overrides and where each value came from
        #[arg(long, value_name = "SERVICE")]
        of: Option<Service>,
    },
}

pub(crate) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    if let Command::Policy {
        method: Some(method), ..
    } = &command
    {
        check_method(&method.to_lowercase())?;
    }
    match command {
        Command::Top(arguments) => mesh_top::run(globals, &arguments).await,
        Command::Policy { method, of: None } => {
            print_declared(globals, &method.unwrap_or_default().to_lowercase())
        }
        Command::Policy {
            method,
            of: Some(service),
        } => print_effective(globals, service, &method.unwrap_or_default().to_lowercase()).await,
    }
}

/// Refuses a filter that matches no method: it is mistyped.
fn check_method(wanted: &str) -> Result<(), Failure> {
    let policies = policies::policies().map_err(anyhow::Error::from)?;
    let wanted = wanted.trim_start_matches('/');
    let paths = || policies.iter().map(|(path, _)| path.trim_start_matches('/'));
    if paths().any(|path| path.to_lowercase().contains(wanted)) {
        return Ok(());
    }
    let last = wanted.rsplit('/').next().unwrap_or(wanted);
    let suggestion = suggestion::did_you_mean(last, paths().flat_map(|path| path.split('/')));
    Err(Failure::Usage(format!(
        "no method's name has `{wanted}` in it{suggestion}"
    )))
}

/// Prints the policies that a running service applies when it calls others.
async fn print_effective(globals: &Globals, service: Service, wanted: &str) -> Result<(), Failure> {
    let clients = Clients::open(globals)?;
    let mut answer = mesh_top::snapshot(&clients, service, true).await?;
    for edge in &mut answer.edges {
        // A channel has the policies of the whole contract, but calls only the methods of its target service.
        let package = format!("{}.", edge.service);
        edge.methods.retain(|method| {
            method.name.starts_with(&package)
                && method
                    .name
                    .to_lowercase()
                    .contains(wanted.trim_start_matches('/'))
        });
    }
    if globals.output == Format::Json {
        return output::print_json(&output::json(&answer)?);
    }
    let mut table = Table::new(
        [
            "METHOD", ">TIMEOUT", "FROM", "ATTEMPTS", "FROM", "HEDGED", "FROM", "WAITS", "FROM",
        ],
        "it calls no such method",
    );
    for method in answer.edges.into_iter().flat_map(|edge| edge.methods) {
        table.row([
            method.name,
            duration::format_rounded(std::time::Duration::from_millis(method.timeout_ms)),
            method.timeout_source,
            method.max_attempts.to_string(),
            method.retry_source,
            method.max_hedged_attempts.to_string(),
            method.hedging_source,
            if method.wait_for_ready { "yes" } else { "no" }.to_owned(),
            method.wait_for_ready_source,
        ]);
    }
    print!("{table}");
    Ok(())
}

/// Prints the policies that the contract declares.
fn print_declared(globals: &Globals, wanted: &str) -> Result<(), Failure> {
    let policies = policies::policies().map_err(anyhow::Error::from)?;
    let mut methods: Vec<(&str, &MethodPolicy)> = policies
        .iter()
        .map(|(path, policy)| (path.trim_start_matches('/'), policy))
        .filter(|(path, _)| path.to_lowercase().contains(wanted.trim_start_matches('/')))
        .collect();
    methods.sort_by_key(|(path, _)| *path);
    if globals.output == Format::Json {
        return output::print_json(
            &methods
                .iter()
                .map(|(path, policy)| to_json(path, policy))
                .collect(),
        );
    }
    let mut table = Table::new(
        [
            "METHOD", ">TIMEOUT", "ATTEMPTS", "REPEATED", "ROLES", "CALLERS", "AUDITED",
        ],
        "none",
    );
    for (path, policy) in methods {
        table.row([
            path.to_owned(),
            duration::format_rounded(policy.timeout),
            attempts(policy),
            idempotency_name(policy.idempotency).to_owned(),
            policy.roles.join(","),
            policy.callers.join(","),
            if policy.audited { "yes" } else { "" }.to_owned(),
        ]);
    }
    print!("{table}");
    Ok(())
}

fn attempts(policy: &MethodPolicy) -> String {
    match (&policy.retry, &policy.hedging) {
        (None, None) => "1".to_owned(),
        (Some(retry), None) => retry.max_attempts.to_string(),
        (retry, Some(hedging)) => {
            let attempts = retry.as_ref().map_or(1, |retry| retry.max_attempts);
            format!("{attempts}, hedged {}", hedging.max_attempts)
        }
    }
}

fn idempotency_name(idempotency: Idempotency) -> &'static str {
    match idempotency {
        Idempotency::Unknown => "not safely",
        Idempotency::NoSideEffects => "reads only",
        Idempotency::Idempotent => "one effect",
    }
}

fn to_json(path: &str, policy: &MethodPolicy) -> Value {
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    json!({
        "method": path,
        "timeoutMs": millis(policy.timeout),
        "retry": policy.retry.as_ref().map(|retry| json!({
            "maxAttempts": retry.max_attempts,
            "initialBackoffMs": millis(retry.initial_backoff),
            "maxBackoffMs": millis(retry.max_backoff),
            "backoffMultiplier": retry.backoff_multiplier,
            "retryableCodes": retry.retryable_codes.iter().map(|code| mesh::code::name(*code)).collect::<Vec<_>>(),
        })),
        "hedging": policy.hedging.as_ref().map(|hedging| json!({
            "maxAttempts": hedging.max_attempts,
            "delayMs": millis(hedging.delay),
        })),
        "criticality": policy.criticality.as_str_name(),
        "roles": policy.roles,
        "callers": policy.callers,
        "rateLimitClass": policy.rate_limit_class.as_str_name(),
        "audited": policy.audited,
        "anonymous": policy.anonymous,
        "idempotency": idempotency_name(policy.idempotency),
    })
}
