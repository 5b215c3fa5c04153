//! Mutual TLS on this machine: a certificate authority that lives as long as `weft up`, and the certificates it
//! issues.
//!
//! The authority's key is never written to disk. The other keys stay the same while it runs, so that a renewed
//! certificate always matches the key file beside it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::{
    clients::TRUST_DOMAIN,
    service::Service,
    workspace::{Workspace, write_private},
};

/// The name in the certificate of the command line itself.
pub(crate) const CLIENT: &str = "weft";
/// The lifetime of the authority's certificate.
const AUTHORITY_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// Certificates are valid from this long before their issue, to tolerate clock skew between containers.
const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// The longest interval between checks of the wall clock: after a suspend, expired certificates are renewed within
/// it.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Issues certificates, and renews them before they expire.
pub(crate) struct Authority {
    workspace: Workspace,
    key: KeyPair,
    holders: Vec<Holder>,
    ttl: Duration,
}

/// A process with its own certificate.
struct Holder {
    name: &'static str,
    key: KeyPair,
}

impl Authority {
    /// Generates all keys and issues the first certificates.
    pub(crate) fn create(workspace: &Workspace, ttl: Duration) -> anyhow::Result<Authority> {
        let folder = workspace.certificate_folder();
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        let names = Service::ALL.map(Service::name).into_iter().chain([CLIENT]);
        let holders = names.map(|name| Holder::create(workspace, name));
        let authority = Authority {
            workspace: workspace.clone(),
            key: KeyPair::generate()?,
            holders: holders.collect::<Result<_, _>>()?,
            ttl,
        };
        authority.issue().context("certificates cannot be made")?;
        Ok(authority)
    }

    /// Renews the certificates at half of their lifetime, until the returned handle is dropped.
    pub(crate) fn renew_periodically(self) -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut due = OffsetDateTime::now_utc() + self.ttl / 2;
            loop {
                tokio::time::sleep(CHECK_INTERVAL.min(self.ttl / 10)).await;
                if OffsetDateTime::now_utc() < due {
                    continue;
                }
                match self.issue() {
                    Ok(()) => due = OffsetDateTime::now_utc() + self.ttl / 2,
                    Err(error) => eprintln!("the certificates cannot be renewed: {error:#}"),
                }
            }
        }))
    }

    /// Issues all certificates for the existing keys.
    fn issue(&self) -> anyhow::Result<()> {
        let mut own = params("Weft on this machine", AUTHORITY_TTL);
        own.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        own.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = own.self_signed(&self.key)?;
        write_private(&self.workspace.ca_certificate(), certificate.pem().as_bytes())?;
        let issuer = Issuer::from_params(&own, &self.key);
        for holder in &self.holders {
            let certificate = holder.params(self.ttl)?.signed_by(&holder.key, &issuer)?;
            write_private(
                &self.workspace.certificate(holder.name),
                certificate.pem().as_bytes(),
            )?;
        }
        Ok(())
    }
}

impl Holder {
    fn create(workspace: &Workspace, name: &'static str) -> anyhow::Result<Holder> {
        let key = KeyPair::generate()?;
        write_private(&workspace.certificate_key(name), key.serialize_pem().as_bytes())?;
        Ok(Holder { name, key })
    }

    /// Weft's own clients verify only the URI; grpcurl and similar clients verify the host that they connect to.
    fn params(&self, ttl: Duration) -> anyhow::Result<CertificateParams> {
        let mut params = params(self.name, ttl);
        params.subject_alt_names = vec![
            SanType::URI(format!("spiffe://{TRUST_DOMAIN}/{}", self.name).try_into()?),
            SanType::DnsName("localhost".try_into()?),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

fn params(name: &str, ttl: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    // The default serial number is derived from the key, but two certificates need different ones (RFC 5280,
    // 4.1.2.2).
    params.serial_number = Some(SerialNumber::from_slice(Uuid::new_v4().as_bytes()));
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + ttl;
    params
}
