//! Builds a channel step by step.

use std::path::PathBuf;

use crate::{CallPolicy, Channel, ChannelOptions, Error, Policies, Tls, Tuning};

/// Builds a [`Channel`].
///
/// The policy of each method comes from the options of its contract, then from the service config, then from
/// [`ChannelBuilder::policy`]; what comes later takes precedence. All three are optional: a method about which none
/// says anything has the caller's deadline, is balanced over all endpoints, and is sent again only if no server has
/// processed it.
///
/// ```no_run
/// # async fn example() -> Result<(), weft_mesh::Error> {
/// use std::time::Duration;
/// use weft_mesh::{CallPolicy, Channel, policy::Retry};
///
/// let channel = Channel::builder("dns:http://greeter.prod:50051")
///     .policy("greeter.v1.Greeter", CallPolicy::new().timeout(Duration::from_secs(1)).retry(Retry::new(3)))
///     .connect()?;
/// // let client = GreeterClient::new(channel);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use]
pub struct ChannelBuilder {
    options: ChannelOptions,
    contracts: Vec<Vec<u8>>,
    policies: Option<Policies>,
}

impl ChannelBuilder {
    /// See [`ChannelOptions::target`] for the forms of a target.
    pub fn new(target: impl Into<String>) -> ChannelBuilder {
        let target = target.into();
        ChannelBuilder {
            options: ChannelOptions::new(target.clone(), target, program()),
            contracts: Vec::new(),
            policies: None,
        }
    }

    /// The name of the called service in metrics, errors and [`Snapshot`](crate::Snapshot)s. Default: the target.
    pub fn service(mut self, name: impl Into<String>) -> ChannelBuilder {
        self.options.service = name.into();
        self
    }

    /// The name of this program, in the `user-agent` of its calls. Default: the name of its executable file.
    pub fn caller(mut self, name: impl Into<String>) -> ChannelBuilder {
        self.options.caller = name.into();
        self
    }

    /// A contract, as an encoded `FileDescriptorSet` with its imports: its methods are known to the service config,
    /// to metrics and to snapshots, and have the policies that its options declare. May be called for several.
    pub fn contract(mut self, descriptors: &[u8]) -> ChannelBuilder {
        self.contracts.push(descriptors.to_vec());
        self
    }

    /// Policies that have been read before, in place of [`ChannelBuilder::contract`].
    pub fn policies(mut self, policies: &Policies) -> ChannelBuilder {
        self.policies = Some(policies.clone());
        self
    }

    /// The policy of a method (`greeter.v1.Greeter/SayHello`), of the methods of a service (`greeter.v1.Greeter`) or
    /// of all methods (`*`). The first of these that is given for a method applies, and not the others.
    pub fn policy(mut self, methods: &str, policy: CallPolicy) -> ChannelBuilder {
        self.options.call_policies.add(methods, policy);
        self
    }

    /// gRPC's service config in JSON.
    pub fn service_config(mut self, json: impl Into<String>) -> ChannelBuilder {
        self.options.tuning.service_config = Some(json.into());
        self
    }

    /// A file with gRPC's service config in JSON, which is followed: see [`ChannelOptions::service_config_file`].
    pub fn service_config_file(mut self, file: impl Into<PathBuf>) -> ChannelBuilder {
        self.options.service_config_file = Some(file.into());
        self
    }

    /// TLS, for `https://` targets.
    pub fn tls(mut self, tls: Tls) -> ChannelBuilder {
        self.options.tuning.tls = Some(tls);
        self
    }

    /// The zone of this process: endpoints of the same zone are preferred while they have capacity.
    pub fn zone(mut self, zone: impl Into<String>) -> ChannelBuilder {
        self.options.tuning.zone = Some(zone.into());
        self
    }

    /// Changes limits and timeouts.
    pub fn tune(mut self, change: impl FnOnce(&mut Tuning)) -> ChannelBuilder {
        change(&mut self.options.tuning);
        self
    }

    /// Creates the channel and starts to connect in the background. Never waits.
    ///
    /// # Errors
    /// If the target, a contract, a policy, a setting or the service config is invalid, or outside a tokio runtime.
    pub fn connect(self) -> Result<Channel, Error> {
        let mut policies = self.policies.unwrap_or_default();
        for contract in &self.contracts {
            policies = policies.and(&Policies::from_descriptors(contract)?);
        }
        Channel::connect(self.options, &policies)
    }
}

impl Channel {
    /// Builds a channel to a target: `dns:http://greeter:50051`, for example.
    pub fn builder(target: impl Into<String>) -> ChannelBuilder {
        ChannelBuilder::new(target)
    }
}

/// The name of the executable file; only characters that a header may have.
fn program() -> String {
    let path = std::env::current_exe().ok();
    let stem = path.as_deref().and_then(|path| path.file_stem()?.to_str());
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = stem.unwrap_or("client").chars().filter(allowed).collect();
    if name.is_empty() {
        "client".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{MethodPolicy, policy::Retry};

    fn builder() -> ChannelBuilder {
        let declared = MethodPolicy::new(Duration::from_secs(1));
        let methods = ["/a.B/Get", "/a.B/List", "/c.D/Get"];
        Channel::builder("static:http://127.0.0.1:1").policies(&Policies::from_methods(
            methods.map(|path| (path.to_owned(), declared.clone())),
        ))
    }

    fn timeout(seconds: u64) -> CallPolicy {
        CallPolicy::new().timeout(Duration::from_secs(seconds))
    }

    #[tokio::test]
    async fn the_application_overrides_the_service_config_and_this_the_contract() {
        let json =
            r#"{"methodConfig": [{"name": [{"service": "a.B"}], "timeout": "2s", "waitForReady": true}]}"#;
        let channel = builder()
            .service_config(json)
            .policy("a.B/Get", timeout(3))
            .policy("*", timeout(4))
            .connect()
            .unwrap();
        let methods = channel.snapshot().methods;
        let shown: Vec<_> = methods
            .iter()
            .map(|method| (&*method.name, method.timeout_ms, &*method.timeout_source))
            .collect();
        assert_eq!(
            shown,
            [
                ("a.B/Get", 3_000, "application"),
                ("a.B/List", 4_000, "application"),
                ("c.D/Get", 4_000, "application"),
            ]
        );
        assert!(
            methods[0].wait_for_ready,
            "what the application does not set stays"
        );
    }

    #[tokio::test]
    async fn a_policy_for_an_unknown_or_unsafe_method_is_an_error() {
        for (methods, policy, found) in [
            ("a.B/Got", timeout(1), "a.B/Got is not in the contract"),
            ("a.B/G*", timeout(1), "`a.B/G*` is neither"),
            ("a.*", timeout(1), "`a.*` is neither"),
            ("*/Get", timeout(1), "`*/Get` is neither"),
            ("", timeout(1), "`` is neither"),
            ("a.B/", timeout(1), "`a.B/` is neither"),
            (
                "a.B",
                CallPolicy::new().retry(Retry::new(3)),
                "needs an idempotency_level",
            ),
            (
                "*",
                CallPolicy::new().timeout(Duration::ZERO),
                "timeout: must be more than zero",
            ),
        ] {
            let error = builder()
                .policy(methods, policy)
                .connect()
                .unwrap_err()
                .to_string();
            assert!(error.contains("`policy`") && error.contains(found), "{error}");
        }
        let service_outside_the_contract = builder().policy("x.Y/Z", timeout(1)).connect();
        assert!(service_outside_the_contract.is_ok());
    }
}
