//! Who this program is to the services, and who they have to be, under mutual TLS.

use std::path::PathBuf;

use clap::Args;

use super::Service;
use crate::{failure::Failure, home};

/// What names are of, unless something else is said.
pub(crate) const TRUST_DOMAIN: &str = "weft";

/// What calls to `https://` addresses need; of a local system `weft up --tls` has written it down.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Identity {
    /// PEM file with the authorities that vouch for services behind https://; by default what `weft up --tls` wrote down
    #[arg(long, global = true, env = "WEFT_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file with the certificate to call with
    #[arg(long, global = true, env = "WEFT_CERT", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// PEM file with the certificate's key
    #[arg(long, global = true, env = "WEFT_KEY", value_name = "FILE")]
    key: Option<PathBuf>,
    /// Whose names the services have: by default `weft`, for spiffe://weft/order
    #[arg(long, global = true, env = "WEFT_TRUST_DOMAIN", value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// Send the token also to http:// addresses of other machines, where it can be read on its way
    #[arg(long, global = true, env = "WEFT_ALLOW_PLAINTEXT")]
    allow_plaintext: bool,
}

/// Where a service is called.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) service: Service,
    pub(super) url: String,
    /// It was named, and is not a default.
    pub(super) given: bool,
}

impl Address {
    fn is_secured(&self) -> bool {
        self.url.starts_with("https:")
    }
}

impl Identity {
    /// Refuses options that have no effect: whoever gives one believes that the calls are secured.
    ///
    /// # Errors
    /// When one is given for `http://` addresses.
    pub(super) fn has_effect(&self, addresses: &[Address]) -> Result<(), Failure> {
        let given = [
            ("--ca", self.ca.is_some()),
            ("--cert", self.cert.is_some()),
            ("--key", self.key.is_some()),
            ("--trust-domain", self.trust_domain.is_some()),
        ];
        let Some((option, _)) = given.into_iter().find(|(_, given)| *given) else {
            return Ok(());
        };
        // A default that is not https:// is perhaps never called; one that was named is meant.
        let none_is_secured = !addresses.iter().any(Address::is_secured);
        let in_vain = addresses
            .iter()
            .find(|address| !address.is_secured() && (address.given || none_is_secured));
        match in_vain {
            None => Ok(()),
            Some(Address { service, url, .. }) => Err(Failure::Usage(format!(
                "{option} is for https:// addresses, and {url} is none: calls to it are not secured; give \
                 --{}-url https://…, or leave {option} out",
                service.name()
            ))),
        }
    }

    /// Where tokens may go.
    ///
    /// # Errors
    /// When they would cross the network in the clear and that is not allowed.
    pub(super) fn bearer(&self, addresses: &[Address]) -> Result<mesh::BearerTokens, Failure> {
        let exposed = |address: &&Address| mesh::is_exposed(&format!("static:{}", address.url));
        match addresses.iter().find(exposed) {
            Some(Address { url, .. }) if !self.allow_plaintext => Err(Failure::Usage(format!(
                "the token would go to {url} in the clear: use https://, or allow it with --allow-plaintext"
            ))),
            Some(_) => Ok(mesh::BearerTokens::Plaintext),
            None => Ok(mesh::BearerTokens::Secured),
        }
    }

    /// How a service at `url` is called: as the options say, or else as the local system does.
    ///
    /// # Errors
    /// When one of the options is missing beside the others, or all of them for an `https://` address.
    pub(super) fn towards(
        &self,
        service: Service,
        url: &str,
        local: Option<&home::Tls>,
    ) -> Result<Option<mesh::Tls>, Failure> {
        if !url.starts_with("https:") {
            return Ok(None);
        }
        let (ca_file, cert_file, key_file) = match (&self.ca, &self.cert, &self.key) {
            (Some(ca), Some(cert), Some(key)) => (ca, cert, key),
            (None, None, None) => {
                let home::Tls { ca, cert, key } = local.ok_or_else(|| {
                    Failure::Usage(format!("{url} needs a certificate: pass --ca, --cert and --key"))
                })?;
                (ca, cert, key)
            }
            _ => {
                let text = "--ca, --cert and --key go together: one of them is missing";
                return Err(Failure::Usage(text.to_owned()));
            }
        };
        let domain = self.trust_domain.as_deref().unwrap_or(TRUST_DOMAIN);
        Ok(Some(mesh::Tls {
            ca_file: ca_file.clone(),
            cert_file: cert_file.clone(),
            key_file: key_file.clone(),
            server_ids: vec![service.spiffe_id(domain)],
        }))
    }
}
