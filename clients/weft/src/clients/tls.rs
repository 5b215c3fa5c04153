//! Mutual TLS and tokens by address: checks the TLS options and turns them into the settings of a channel.

use crate::service::Service;
use crate::{failure::Failure, globals::TlsOptions, workspace};

/// The trust domain of SPIFFE ids when `--trust-domain` is absent.
pub(crate) const TRUST_DOMAIN: &str = "weft";

/// The address at which a service is called.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) service: Service,
    pub(super) url: String,
    /// It comes from an option or the environment; otherwise it is a default.
    pub(super) is_given: bool,
}

impl Address {
    fn is_secured(&self) -> bool {
        self.url.starts_with("https:")
    }
}

/// Refuses options that have no effect: their user would believe that the calls are secured.
///
/// # Errors
/// When one is given for `http://` addresses.
pub(super) fn check_addresses(options: &TlsOptions, addresses: &[Address]) -> Result<(), Failure> {
    let given = [
        ("--ca", options.ca.is_some()),
        ("--cert", options.cert.is_some()),
        ("--key", options.key.is_some()),
        ("--trust-domain", options.trust_domain.is_some()),
    ];
    let Some((option, _)) = given.into_iter().find(|(_, given)| *given) else {
        return Ok(());
    };
    // A default http:// address may never be called, so it is refused only if no address is https://.
    let none_is_secured = !addresses.iter().any(Address::is_secured);
    let plaintext = addresses
        .iter()
        .find(|address| !address.is_secured() && (address.is_given || none_is_secured));
    match plaintext {
        None => Ok(()),
        Some(Address { service, url, .. }) => Err(Failure::Usage(format!(
            "{option} is for https:// addresses, and {url} is none: calls to it are not secured; give \
             --{}-url https://…, or leave {option} out",
            service.name()
        ))),
    }
}

/// Whether calls may carry a token in plaintext.
///
/// # Errors
/// When a token would cross the network in plaintext and `--allow-plaintext` is absent.
pub(super) fn bearer_tokens(
    options: &TlsOptions,
    addresses: &[Address],
) -> Result<mesh::BearerTokens, Failure> {
    let exposed = |address: &&Address| mesh::is_exposed(&format!("static:{}", address.url), false);
    match addresses.iter().find(exposed) {
        Some(Address { url, .. }) if !options.allow_plaintext => Err(Failure::Usage(format!(
            "the token would go to {url} in the clear: use https://, or allow it with --allow-plaintext"
        ))),
        Some(_) => Ok(mesh::BearerTokens::Plaintext),
        None => Ok(mesh::BearerTokens::Secured),
    }
}

/// The TLS settings for a service at `url`: the options, or else those of the local system. `None` for `http://`.
///
/// # Errors
/// When only some of `--ca`, `--cert` and `--key` are given, or none of them for an `https://` address outside the
/// local system.
pub(super) fn channel_tls(
    options: &TlsOptions,
    service: Service,
    url: &str,
    local: Option<&workspace::Tls>,
) -> Result<Option<mesh::Tls>, Failure> {
    if !url.starts_with("https:") {
        return Ok(None);
    }
    let (ca_file, cert_file, key_file) = match (&options.ca, &options.cert, &options.key) {
        (Some(ca), Some(cert), Some(key)) => (ca, cert, key),
        (None, None, None) => {
            let workspace::Tls { ca, cert, key } = local.ok_or_else(|| {
                Failure::Usage(format!("{url} needs a certificate: pass --ca, --cert and --key"))
            })?;
            (ca, cert, key)
        }
        _ => {
            let text = "--ca, --cert and --key go together: one of them is missing";
            return Err(Failure::Usage(text.to_owned()));
        }
    };
    let domain = options.trust_domain.as_deref().unwrap_or(TRUST_DOMAIN);
    Ok(Some(mesh::Tls::spiffe(
        ca_file,
        cert_file,
        key_file,
        vec![service.spiffe_id(domain)],
    )))
}
