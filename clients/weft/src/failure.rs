//! Failures of a command: their kinds, how they are reported, and their exit codes.

use std::{io::Write as _, process::ExitCode};

use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{duration, globals::Format, policies, service::Service};

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong. Exit code 2.
    Usage(String),
    /// A call failed: the service refused it, or could not be reached. Exit code 1.
    Call(Box<CallFailure>),
    /// Anything else. Exit code 1.
    Other(anyhow::Error),
    /// The command has printed the failure itself. Exit code 1.
    AlreadyReported,
}

/// A call that ended with an error status.
#[derive(Debug)]
pub(crate) struct CallFailure {
    /// `order.v1.OrderService/PlaceOrder`
    pub(crate) method: &'static str,
    pub(crate) status: Status,
}

/// Adds the called method to a status.
pub(crate) trait During<T> {
    fn during(self, method: &'static str) -> Result<T, Failure>;
}

impl<T> During<T> for Result<T, Status> {
    fn during(self, method: &'static str) -> Result<T, Failure> {
        self.map_err(|status| Failure::Call(Box::new(CallFailure { method, status })))
    }
}

/// Prints clap's result: an error in the command line, in JSON if `--output json` was given, or help and version.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || !wants_json(std::env::args().skip(1)) {
        let code = u8::try_from(error.exit_code()).unwrap_or(1);
        // Help and version go to standard output.
        return match error.print().and_then(|()| std::io::stdout().flush()) {
            Err(failed) if !error.use_stderr() => ExitCode::from(report_write_error(&failed.to_string())),
            _ => ExitCode::from(code),
        };
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Failure::Usage("a command is missing: --help lists them".to_owned())
            .report(Format::Json, None);
    }
    let text = error.render().to_string();
    let end = ["\n\nUsage:", "\n\nFor more information"]
        .iter()
        .filter_map(|part| text.find(part));
    let message = &text[..end.min().unwrap_or(text.len())];
    let message = message.strip_prefix("error: ").unwrap_or(message).trim();
    Failure::Usage(message.to_owned()).report(Format::Json, None)
}

/// Reports on standard error that the output cannot be written, and returns the exit code. A closed pipe is no
/// error: `weft order list | head` ends its reader early.
pub(crate) fn report_write_error(error: &str) -> u8 {
    if error.starts_with("Broken pipe") {
        return 0;
    }
    // Standard error may itself be closed or full.
    let _ = writeln!(std::io::stderr(), "error: the output cannot be written: {error}");
    1
}

/// Whether `-o json` is among arguments that could not be parsed, or in the environment.
fn wants_json(arguments: impl Iterator<Item = String>) -> bool {
    let arguments: Vec<String> = arguments.take_while(|argument| argument != "--").collect();
    let option = arguments.iter().enumerate().find_map(|(index, argument)| {
        let value = match argument.as_str() {
            "-o" | "--output" => arguments.get(index + 1).map(String::as_str)?,
            other => other
                .strip_prefix("--output=")
                .or_else(|| other.strip_prefix("-o"))?,
        };
        Some(value.trim_start_matches('=') == "json")
    });
    option.unwrap_or_else(|| std::env::var("WEFT_OUTPUT").is_ok_and(|output| output == "json"))
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Other(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Other(error.into())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Failure {
        Failure::Other(error.into())
    }
}

impl Failure {
    /// Prints the failure on standard error and returns the exit code. `request_id` is that of a request that was
    /// sent.
    pub(crate) fn report(&self, format: Format, request_id: Option<&str>) -> ExitCode {
        match (self, format) {
            (Failure::AlreadyReported, _) => {}
            (failure, Format::Json) => eprintln!("{}", json!({"error": failure.to_json(request_id)})),
            (Failure::Usage(message), Format::Table) => eprintln!("error: {message}"),
            (Failure::Other(error), Format::Table) => eprintln!("error: {error:#}"),
            (Failure::Call(call), Format::Table) => eprintln!("{}", call.to_text(request_id)),
        }
        ExitCode::from(if matches!(self, Failure::Usage(_)) { 2 } else { 1 })
    }

    fn to_json(&self, request_id: Option<&str>) -> Value {
        match self {
            Failure::Usage(message) => json!({"kind": "usage", "message": message}),
            Failure::Other(error) => json!({"kind": "failed", "message": format!("{error:#}")}),
            Failure::AlreadyReported => json!({"kind": "failed"}),
            Failure::Call(call) => call.to_json(request_id),
        }
    }
}

impl CallFailure {
    fn to_text(&self, request_id: Option<&str>) -> String {
        let mut text = format!(
            "error: {} answered {}",
            self.method,
            mesh::code::name(self.status.code())
        );
        if let Some(reason) = reason(&self.status) {
            text.push_str(&format!(" ({reason})"));
        }
        text.push_str(&format!("\n  {}", summary(&self.status)));
        for (field, description) in violations(&self.status) {
            text.push_str(&format!("\n  - {field}: {description}"));
        }
        if let Some(wait) = self.retry_delay() {
            text.push_str(&format!("\n  retry in {}", duration::format_rounded(wait)));
        }
        if let Some(next) = self.next_command(request_id) {
            text.push_str(&format!("\nnext: {next}"));
        }
        text
    }

    fn to_json(&self, request_id: Option<&str>) -> Value {
        let violations: Vec<Value> = violations(&self.status)
            .into_iter()
            .map(|(field, description)| json!({"field": field, "description": description}))
            .collect();
        json!({
            "kind": "call",
            "method": self.method,
            "code": mesh::code::name(self.status.code()),
            "reason": reason(&self.status),
            "message": self.status.message(),
            "violations": violations,
            "retryDelayMs": self.retry_delay().map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            "requestId": request_id,
            "next": self.next_command(request_id),
        })
    }

    /// Whether a retry of the same request always fails the same way.
    fn is_final(&self) -> bool {
        let is_negative = |value: &tonic::metadata::MetadataValue<_>| value.as_bytes().starts_with(b"-");
        let pushback = self.status.metadata().get("grpc-retry-pushback-ms");
        let reason = reason(&self.status);
        pushback.is_some_and(is_negative)
            || matches!(reason.as_deref(), Some("MESSAGE_TOO_LARGE" | "ANSWER_TOO_LARGE"))
    }

    fn retry_delay(&self) -> Option<std::time::Duration> {
        let info = self.status.get_details_retry_info()?;
        info.retry_delay.filter(|_| !self.is_final())
    }

    /// `retry`, with the longest `--timeout` that the contract allows for the method.
    fn suggest_timeout(&self, retry: &str) -> String {
        match policies::contract_timeout(self.method) {
            Some(most) => format!(
                "{retry}; --timeout can be up to {}, which is what the contract gives this call",
                duration::format_exact(most)
            ),
            None => retry.to_owned(),
        }
    }

    /// The next command to type.
    fn next_command(&self, request_id: Option<&str>) -> Option<String> {
        let (list, look) = commands(self.method);
        // An unanswered request may have taken effect; under another id it would take effect a second time.
        let retry = match request_id {
            Some(id) => format!("the same command again with --request-id {id}"),
            None => "the same command again".to_owned(),
        };
        Some(match self.status.code() {
            _ if self.is_final() => return None,
            Code::Unavailable if request_id.is_some() => {
                format!("{retry}; `weft status` shows what runs")
            }
            Code::Unavailable => "weft status   (or `weft up`, if nothing runs)".to_owned(),
            Code::Unauthenticated => "weft token   (mints one; --token or WEFT_TOKEN passes one)".to_owned(),
            Code::Unimplemented if is_unknown_service(&self.status) => {
                let name = Service::by_method(self.method)?.name();
                let variable = name.to_uppercase();
                format!(
                    "the same command with the address of the {name} service: --{name}-url or WEFT_{variable}_URL"
                )
            }
            Code::PermissionDenied => {
                format!("weft mesh policy {}   (shows the allowed roles)", self.method)
            }
            Code::NotFound => format!("weft {list}"),
            Code::AlreadyExists | Code::FailedPrecondition => {
                format!("weft {look}   (shows the current state)")
            }
            Code::DeadlineExceeded => self.suggest_timeout(&retry),
            Code::Aborted | Code::ResourceExhausted => retry,
            Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss if request_id.is_some() => {
                retry
            }
            _ => return None,
        })
    }
}

/// The error's reason from `google.rpc.ErrorInfo`, in UPPER_SNAKE.
pub(crate) fn reason(status: &Status) -> Option<String> {
    status
        .get_details_error_info()
        .map(|info| info.reason)
        .filter(|reason| !reason.is_empty())
}

/// Every violated field with its description.
pub(crate) fn violations(status: &Status) -> Vec<(String, String)> {
    let bad_request = status.get_details_bad_request();
    let fields = bad_request
        .into_iter()
        .flat_map(|bad_request| bad_request.field_violations);
    fields
        .map(|violation| (violation.field, violation.description))
        .collect()
}

/// The message without the violations, which some services repeat in it.
fn summary(status: &Status) -> &str {
    let message = status.message();
    let repeated = violations(status)
        .first()
        .and_then(|(field, _)| message.find(&format!(": {field}: ")));
    &message[..repeated.unwrap_or(message.len())]
}

/// A status in one line: reason or code, message, violations.
pub(crate) fn one_line(status: &Status) -> String {
    let mut text = reason(status).unwrap_or_else(|| mesh::code::name(status.code()).to_owned());
    text.push_str(&format!(": {}", summary(status)));
    for (field, description) in violations(status) {
        text.push_str(&format!("; {field}: {description}"));
    }
    text
}

/// Two commands for the subject of a method: one lists all, the other shows one.
fn commands(method: &str) -> (&'static str, &'static str) {
    let (service, name) = method.split_once('/').unwrap_or((method, ""));
    match service {
        "payment.v1.PaymentService" => ("payment list", "payment get ID"),
        "payment.v1.LedgerService" => ("ledger entries", "ledger balance"),
        "claims.v1.ClaimService" if name.contains("Parked") => ("remittance parked", "remittance parked"),
        "claims.v1.ClaimService" => ("claim list", "claim get ID"),
        "ops.v1.SagaService" => ("saga list", "saga show ID"),
        "ops.v1.DeadLetterService" => ("dlq list", "dlq show ID"),
        "ops.v1.EventService" if name.contains("Held") => ("events held", "events held"),
        "ops.v1.EventService" => ("events lag", "events lag"),
        "ops.v1.MeshService" => ("mesh top", "mesh top"),
        _ => ("order list", "order get ID"),
    }
}

/// Whether the server does not have the gRPC service that was called. Other gRPC servers, such as grpc-go, give no
/// reason.
pub(crate) fn is_unknown_service(status: &Status) -> bool {
    let is_unknown = reason(status).is_none_or(|reason| reason == "UNKNOWN_SERVICE");
    status.code() == Code::Unimplemented && is_unknown
}

#[cfg(test)]
#[path = "failure/tests.rs"]
mod tests;
