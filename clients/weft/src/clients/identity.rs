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
}

impl Identity {
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
