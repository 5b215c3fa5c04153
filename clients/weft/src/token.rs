//! Tokens for local use: JWTs signed with the key that `weft up` made (EdDSA, RFC 8037).

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::{Args, ValueEnum};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::{
    duration,
    failure::Failure,
    globals::{Format, Globals},
    keys::Key,
    workspace::Workspace,
};

/// Issuer and audience of local tokens; `weft up` configures the services with the same.
pub(crate) const ISSUER: &str = "weft-local";
pub(crate) const AUDIENCE: &str = "weft";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What the bearer may do; may be given several times
    #[arg(long = "role", value_enum, default_values_t = [Role::Admin])]
    roles: Vec<Role>,
    /// Who the bearer is
    #[arg(long, default_value = "weft", value_parser = parse_subject)]
    subject: String,
    /// How long the token is good for, such as 15m or 8h
    #[arg(long, default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
}

/// The roles of people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Reads everything of its facility
    Viewer,
    /// Places, fulfils and cancels orders
    Clerk,
    /// Takes payments and refunds them
    Cashier,
    /// Submits claims and imports remittances
    Biller,
    /// Looks after dead letters and sagas
    Operator,
    /// All of the above
    Admin,
}

/// The claims of a token (RFC 7519).
#[derive(Debug, Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    facility: &'a str,
    roles: &'a [Role],
    iat: u64,
    nbf: u64,
    exp: u64,
}

/// Parses a subject, by the services' rule for people.
fn parse_subject(text: &str) -> Result<String, String> {
    if text.starts_with("service:") {
        return Err("subjects that begin with service: are reserved for services".to_owned());
    }
    if text.chars().count() <= 256 && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err("must be one line of 1 to 256 characters".to_owned())
    }
}

/// Parses a lifetime, which must be in whole seconds, as a token's times are.
fn parse_ttl(text: &str) -> Result<Duration, String> {
    let duration = duration::parse(text)?;
    match duration.subsec_nanos() {
        0 => Ok(duration),
        _ => Err("must be whole seconds, at least 1s".to_owned()),
    }
}

/// The source of the token that calls carry: a given token, or tokens minted from the local key and renewed in
/// time.
pub(crate) enum Bearer {
    Given(Arc<str>),
    Minted(Minter),
}

/// Mints administrators' tokens for one facility.
pub(crate) struct Minter {
    key: Key,
    facility: String,
    current: Mutex<Option<(Arc<str>, Instant)>>,
}

/// The lifetime of tokens that are minted for the command line's own calls.
const CALL_TOKEN_TTL: Duration = Duration::from_secs(3600);

/// Prints a token alone on its line, so that `$(weft token)` works.
pub(crate) fn run(globals: &Globals, arguments: &Arguments) -> Result<(), Failure> {
    let key = Key::open(&local_key(globals)?)?;
    let token = mint(&key, &globals.facility, arguments)?;
    match globals.output {
        Format::Table => println!("{token}"),
        Format::Json => println!("{}", serde_json::json!({"token": token})),
    }
    Ok(())
}

impl Bearer {
    /// Uses the token of `--token`, or mints tokens with the local key.
    pub(crate) fn from_globals(globals: &Globals) -> Result<Bearer, Failure> {
        if let Some(token) = &globals.token {
            return Ok(Bearer::Given(Arc::from(token.trim())));
        }
        let key = Key::open(&local_key(globals)?)?;
        Ok(Bearer::Minted(Minter {
            key,
            facility: globals.facility.clone(),
            current: Mutex::default(),
        }))
    }

    pub(crate) fn token(&self) -> Result<Arc<str>, Failure> {
        match self {
            Bearer::Given(token) => Ok(token.clone()),
            Bearer::Minted(minter) => minter.token(),
        }
    }
}

impl Bearer {
    /// The facility that the token is for, unverified: the services verify it. `None` when it cannot be read.
    pub(crate) fn facility(&self) -> Option<String> {
        let Bearer::Given(token) = self else { return None };
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
        claims["facility"].as_str().map(str::to_owned)
    }
}

impl Minter {
    fn token(&self) -> Result<Arc<str>, Failure> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((token, minted)) = &*current
            && minted.elapsed() < CALL_TOKEN_TTL / 2
        {
            return Ok(token.clone());
        }
        let arguments = Arguments {
            roles: vec![Role::Admin],
            subject: user(),
            ttl: CALL_TOKEN_TTL,
        };
        let token: Arc<str> = mint(&self.key, &self.facility, &arguments)?.into();
        *current = Some((token.clone(), Instant::now()));
        Ok(token)
    }
}

fn mint(key: &Key, facility: &str, arguments: &Arguments) -> Result<String, Failure> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?
        .as_secs();
    let claims = Claims {
        iss: ISSUER,
        aud: AUDIENCE,
        sub: &arguments.subject,
        facility,
        roles: &arguments.roles,
        iat: now,
        // Tolerates clock skew between machines.
        nbf: now.saturating_sub(5),
        exp: now.saturating_add(arguments.ttl.as_secs()),
    };
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(key.id.clone());
    let signer = EncodingKey::from_ed_pem(key.pem.as_bytes()).context("the key cannot sign")?;
    Ok(jsonwebtoken::encode(&header, &claims, &signer).context("the token cannot be signed")?)
}

fn local_key(globals: &Globals) -> Result<PathBuf, Failure> {
    let workspace = Workspace::find(globals);
    let path = workspace.signing_key();
    // An unreadable key is reported when it is read.
    if path.try_exists().unwrap_or(true) {
        return Ok(path);
    }
    Err(Failure::Usage(format!(
        "there is no token and no local key to mint one from ({} does not exist): pass --token, or run `weft up` first",
        path.display()
    )))
}

/// The name of the operating system's user, for audit trails.
fn user() -> String {
    std::env::var("USER")
        .ok()
        .filter(|user| !user.is_empty())
        .unwrap_or_else(|| "weft".to_owned())
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_minted_token_verifies_against_the_published_key_and_has_the_requested_claims() {
        let folder = std::env::temp_dir().join(format!("weft-token-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let key = Key::open_or_create(&folder.join("user.pem")).unwrap();
        let arguments = Arguments {
            roles: vec![Role::Clerk, Role::Cashier],
            subject: "jo".into(),
            ttl: Duration::from_secs(60),
        };
        let token = mint(&key, "al-noor", &arguments).unwrap();
        crate::keys::write_jwks(&folder.join("jwks.json"), &[key.to_jwk(None)]).unwrap();

        let jwks: Value = serde_json::from_slice(&std::fs::read(folder.join("jwks.json")).unwrap()).unwrap();
        let published = DecodingKey::from_ed_components(jwks["keys"][0]["x"].as_str().unwrap()).unwrap();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        validation.validate_nbf = true;
        let decoded = jsonwebtoken::decode::<Value>(&token, &published, &validation).unwrap();
        assert_eq!(decoded.header.kid.as_deref(), jwks["keys"][0]["kid"].as_str());
        assert_eq!(decoded.claims["facility"], "al-noor");
        assert_eq!(Bearer::Given(token.into()).facility().as_deref(), Some("al-noor"));
        assert_eq!(decoded.claims["roles"], serde_json::json!(["clerk", "cashier"]));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
