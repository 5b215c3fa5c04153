//! Options that every command has, the output format, and parsers of arguments that several commands take. Imports
//! no command's module.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use uuid::Uuid;

use crate::{duration, request_id::RequestId};

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Globals {
    /// How to print
    #[arg(long, short, global = true, env = "WEFT_OUTPUT", value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// The facility that a locally minted token is for
    #[arg(long, global = true, env = "WEFT_FACILITY", default_value = "local", value_parser = parse_facility)]
    pub(crate) facility: String,
    /// A token to call with, instead of one minted from the local key
    #[arg(long, global = true, env = "WEFT_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// The order service, such as http://127.0.0.1:7101; by default the address in the folder of `weft up`
    #[arg(long, global = true, env = "WEFT_ORDER_URL", value_name = "URL")]
    pub(crate) order_url: Option<String>,
    /// The payment service
    #[arg(long, global = true, env = "WEFT_PAYMENT_URL", value_name = "URL")]
    pub(crate) payment_url: Option<String>,
    /// The claims service
    #[arg(long, global = true, env = "WEFT_CLAIMS_URL", value_name = "URL")]
    pub(crate) claims_url: Option<String>,
    #[command(flatten)]
    pub(crate) tls: TlsOptions,
    /// How long one call may take, such as 500ms or 10s, at most and by default what the contract says
    #[arg(long, global = true, env = "WEFT_TIMEOUT", value_name = "DURATION", value_parser = duration::parse)]
    pub(crate) timeout: Option<Duration>,
    /// Names the request of a command that changes something, a UUID: repeated with the same one, it has one effect and
    /// one answer
    #[arg(long, global = true, value_name = "UUID", value_parser = parse_uuid)]
    pub(crate) request_id: Option<Uuid>,
    /// The id that requests carry: that of `--request-id`, or a new one.
    #[arg(skip)]
    pub(crate) command_request_id: RequestId,
    /// Where the local system lives; by default `.weft` in this folder or the nearest one above that has it
    #[arg(long, global = true, env = "WEFT_DIR", value_name = "FOLDER")]
    pub(crate) dir: Option<PathBuf>,
}

/// What calls to `https://` addresses need; of a local system `weft up --tls` has written it down.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TlsOptions {
    /// PEM file with the authorities that vouch for services behind https://; by default the file of `weft up --tls`
    #[arg(long, global = true, env = "WEFT_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// PEM file with the certificate to call with
    #[arg(long, global = true, env = "WEFT_CERT", value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// PEM file with the certificate's key
    #[arg(long, global = true, env = "WEFT_KEY", value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// The trust domain of the services: by default `weft`, for spiffe://weft/order
    #[arg(long, global = true, env = "WEFT_TRUST_DOMAIN", value_name = "DOMAIN")]
    pub(crate) trust_domain: Option<String>,
    /// Send the token also to http:// addresses of other machines, where it can be read on its way
    #[arg(long, global = true, env = "WEFT_ALLOW_PLAINTEXT")]
    pub(crate) allow_plaintext: bool,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// Protobuf's JSON, for programs
    Json,
}

/// Parses a currency code, in upper or lower case.
pub(crate) fn parse_currency(text: &str) -> Result<String, String> {
    let code = text.to_uppercase();
    let currency: money::Currency = code.parse().map_err(|error: money::Error| error.to_string())?;
    Ok(currency.code().to_owned())
}

/// Parses a facility's identifier, by the rule of the services, which refuse a token with any other.
fn parse_facility(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("a facility must be 1 to 64 of A-Z a-z 0-9 . _ -".to_owned())
    }
}

/// Parses an argument that must be a UUID.
pub(crate) fn parse_uuid(text: &str) -> Result<Uuid, String> {
    Uuid::parse_str(text)
        .map_err(|_| "it must be a UUID, such as 018f2d5e-0000-7000-8000-000000000001".to_owned())
}
