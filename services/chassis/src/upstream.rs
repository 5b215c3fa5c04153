//! Another service that this one calls.

use serde::{Deserialize, Serialize};

use crate::{Process, Violations};

/// Where another service is, and how calls to it behave.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Upstream {
    /// `static:http://127.0.0.1:7102,http://…` or `dns:http://payment:7102`.
    pub target: String,
    /// Limits and times of the channel.
    pub tuning: mesh::Tuning,
}

impl Upstream {
    /// One endpoint at a local address: `Upstream::local(7102)`.
    pub fn local(port: u16) -> Upstream {
        Upstream {
            target: format!("static:http://127.0.0.1:{port}"),
            ..Upstream::default()
        }
    }

    /// Names what breaks a rule; call it within the section's name.
    pub fn check(&self, violations: &mut Violations) {
        let known = ["static:", "dns:"]
            .iter()
            .any(|scheme| self.target.starts_with(scheme));
        violations.require(known, "target", "must begin with static: or dns:");
        violations.within("tuning", |violations| {
            for (setting, fault) in self.tuning.faults() {
                violations.add(setting, fault);
            }
        });
    }
}

impl Process {
    /// A channel to another service. Connects in the background; never waits.
    ///
    /// # Errors
    /// When the target cannot be used.
    pub fn channel(&self, service: &str, upstream: &Upstream) -> Result<mesh::Channel, mesh::Error> {
        let mut options = mesh::ChannelOptions::new(&upstream.target, service, self.name);
        options.tuning = upstream.tuning.clone();
        mesh::Channel::connect(options, &self.policies)
    }
}
