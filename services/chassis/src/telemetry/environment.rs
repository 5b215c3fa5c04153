//! The `OTEL_*` variables: which are supported, their valid values, and which ones have no effect.

use std::{collections::BTreeMap, ffi::OsString, ops::RangeInclusive};

use http::{HeaderName, Uri};

use crate::Violations;

pub(super) const SIGNALS: [&str; 3] = ["TRACES", "METRICS", "LOGS"];
/// Variables of a signal's exporter; each also exists for all signals.
const EXPORTER_VARIABLES: [&str; 9] = [
    "ENDPOINT",
    "PROTOCOL",
    "HEADERS",
    "TIMEOUT",
    "COMPRESSION",
    "INSECURE",
    "CERTIFICATE",
    "CLIENT_KEY",
    "CLIENT_CERTIFICATE",
];
const TLS_VARIABLES: [&str; 3] = ["CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"];
/// The endpoint when a signal's exporter is set without one.
const DEFAULT_ENDPOINT: &str = "http://localhost:4317";

const MILLISECONDS: RangeInclusive<u64> = 1..=86_400_000;
const QUEUED: RangeInclusive<u64> = 1..=1_000_000;
const COUNT: RangeInclusive<u64> = 0..=10_000;
/// Numbers that the SDK reads by itself. It ignores the `…_EXPORT_TIMEOUT` variables.
const NUMBERS: [(&str, RangeInclusive<u64>); 10] = [
    ("OTEL_BSP_SCHEDULE_DELAY", MILLISECONDS),
    ("OTEL_BSP_MAX_QUEUE_SIZE", QUEUED),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", QUEUED),
    ("OTEL_BLRP_SCHEDULE_DELAY", MILLISECONDS),
    ("OTEL_BLRP_MAX_QUEUE_SIZE", QUEUED),
    ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", QUEUED),
    ("OTEL_METRIC_EXPORT_INTERVAL", MILLISECONDS),
    ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", COUNT),
    ("OTEL_SPAN_EVENT_COUNT_LIMIT", COUNT),
    ("OTEL_SPAN_LINK_COUNT_LIMIT", COUNT),
];
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];
const DISABLED: &str = "OTEL_SDK_DISABLED";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const TEMPORALITY: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
const PROPAGATORS: &str = "OTEL_PROPAGATORS";

/// The variables that are set; an empty one counts as not set, as the specification requires.
#[derive(Debug, Default)]
pub(super) struct Environment(BTreeMap<String, String>);

impl Environment {
    pub(super) fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
        let otel = variables.into_iter().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            (name.starts_with("OTEL_") && !value.is_empty())
                .then(|| (name, value.to_string_lossy().into_owned()))
        });
        Environment(otel.collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value of a signal's exporter variable, or of the one for all signals, with the variable's name.
    pub(super) fn exporter_variable(&self, signal: &str, what: &str) -> Option<(String, &str)> {
        [
            format!("OTEL_EXPORTER_OTLP_{signal}_{what}"),
            format!("OTEL_EXPORTER_OTLP_{what}"),
        ]
        .into_iter()
        .find_map(|name| self.get(&name).map(|value| (name, value)))
    }

    /// The endpoint of a signal; `None` when it is not exported, or [`Environment::check`] rejects the address.
    pub(super) fn endpoint(&self, signal: &str) -> Option<String> {
        self.read_endpoint(signal).ok().flatten()
    }

    /// The signals that are exported with TLS.
    pub(super) fn secure_signals(&self) -> impl Iterator<Item = &'static str> {
        SIGNALS.into_iter().filter(|signal| {
            let endpoint = self.endpoint(signal);
            endpoint.is_some_and(|endpoint| is_secure(&endpoint))
        })
    }

    /// The service name from `OTEL_SERVICE_NAME` or the resource attributes.
    pub(super) fn service_name(&self) -> Option<&str> {
        let named = || {
            self.attributes()
                .find_map(|pair| pair?.0.eq("service.name").then_some(pair?.1))
        };
        self.get("OTEL_SERVICE_NAME").or_else(named)
    }

    /// Reports invalid values. Values that may contain a secret are not repeated.
    pub(super) fn check(&self, violations: &mut Violations) {
        match self.get(DISABLED) {
            Some(value) if is(value, "true") => return,
            Some(value) if !is(value, "false") => {
                violations.add(DISABLED, format!("must be true or false, is {value}"));
            }
            _ => {}
        }
        for signal in SIGNALS {
            self.check_exporter(signal, violations);
        }
        for (name, allowed) in NUMBERS {
            self.check_number(name, self.get(name), &allowed, violations);
        }
        let temporality = self.get(TEMPORALITY);
        if let Some(value) = temporality.filter(|value| !one_of(value, &["cumulative", "delta", "lowmemory"]))
        {
            violations.add(
                TEMPORALITY,
                format!("must be cumulative, delta or lowmemory, is {value}"),
            );
        }
        let attributes = self.attributes().all(|pair| pair.is_some());
        violations.require(
            attributes,
            RESOURCE,
            "must be key=value, with commas between several",
        );
        self.check_sampler(violations);
    }

    fn check_exporter(&self, signal: &str, violations: &mut Violations) {
        let exporter = format!("OTEL_{signal}_EXPORTER");
        match self.get(&exporter) {
            Some("none") => return,
            Some(other) if other != "otlp" => {
                violations.add(exporter, format!("must be otlp or none, is {other}"));
            }
            _ => {}
        }
        if let Err((name, fault)) = self.read_endpoint(signal) {
            add_once(violations, &name, &fault);
        }
        for (what, allowed, rule) in [
            (
                "PROTOCOL",
                &["grpc"][..],
                "must be grpc, the only protocol that is supported",
            ),
            ("COMPRESSION", &["gzip", "none"], "must be gzip or none"),
            ("INSECURE", &["true", "false"], "must be true or false"),
        ] {
            let set = self.exporter_variable(signal, what);
            if let Some((name, value)) = set.filter(|(_, value)| !one_of(value, allowed)) {
                add_once(violations, &name, &format!("{rule}; is {value}"));
            }
        }
        if let Some((name, value)) = self.exporter_variable(signal, "TIMEOUT") {
            self.check_number(&name, Some(value), &MILLISECONDS, violations);
        }
        let headers = self.exporter_variable(signal, "HEADERS");
        if let Some((name, _)) = headers.filter(|(_, value)| !value.split_terminator(',').all(is_header)) {
            add_once(
                violations,
                &name,
                "must be name=value, with commas between several",
            );
        }
        let own = |what| self.exporter_variable(signal, what).map(|(name, _)| name);
        let missing = match (own("CLIENT_CERTIFICATE"), own("CLIENT_KEY")) {
            (Some(certificate), None) => Some((certificate, "CLIENT_KEY")),
            (None, Some(key)) => Some((key, "CLIENT_CERTIFICATE")),
            _ => None,
        };
        if let Some((name, missing)) = missing {
            add_once(
                violations,
                &name,
                &format!("needs OTEL_EXPORTER_OTLP_{missing} as well"),
            );
        }
    }

    fn check_number(
        &self,
        name: &str,
        value: Option<&str>,
        allowed: &RangeInclusive<u64>,
        violations: &mut Violations,
    ) {
        let Some(value) = value else { return };
        if !value.parse().is_ok_and(|number| allowed.contains(&number)) {
            let (least, most) = (allowed.start(), allowed.end());
            let unit = if *allowed == MILLISECONDS {
                " of milliseconds"
            } else {
                ""
            };
            let rule = format!("must be a whole number{unit} from {least} to {most}, is {value}");
            add_once(violations, name, &rule);
        }
    }

    fn check_sampler(&self, violations: &mut Violations) {
        let Some(sampler) = self.get(SAMPLER) else { return };
        if !SAMPLERS.contains(&sampler) {
            let known = SAMPLERS.join(", ");
            violations.add(SAMPLER, format!("must be one of {known}, is {sampler}"));
        }
        let ratio = self
            .get(SAMPLER_ARG)
            .filter(|_| sampler.ends_with("traceidratio"));
        if let Some(value) = ratio {
            let usable = value
                .parse::<f64>()
                .is_ok_and(|ratio| (0.0..=1.0).contains(&ratio));
            violations.require(
                usable,
                SAMPLER_ARG,
                format!("must be a number from 0 to 1, is {value}"),
            );
        }
    }

    /// The names of variables that are set and have no effect.
    pub(super) fn without_effect(&self) -> Vec<&str> {
        let secure = self.secure_signals().next().is_some();
        let is_exporter_variable = |name: &str| {
            name.strip_prefix("OTEL_EXPORTER_OTLP_").is_some_and(|what| {
                let strip_signal = |signal: &&str| what.strip_prefix(signal)?.strip_prefix('_');
                let what = SIGNALS.iter().find_map(strip_signal).unwrap_or(what);
                EXPORTER_VARIABLES.contains(&what) && (secure || !TLS_VARIABLES.contains(&what))
            })
        };
        let has_effect = |name: &str| match name {
            DISABLED | RESOURCE | TEMPORALITY | SAMPLER | "OTEL_SERVICE_NAME" => true,
            SAMPLER_ARG => self
                .get(SAMPLER)
                .is_some_and(|sampler| sampler.ends_with("traceidratio")),
            PROPAGATORS => self.get(name) == Some("tracecontext"),
            _ => {
                is_exporter_variable(name)
                    || SIGNALS
                        .iter()
                        .any(|signal| name == format!("OTEL_{signal}_EXPORTER"))
                    || NUMBERS.iter().any(|(number, _)| *number == name)
            }
        };
        let set = self
            .0
            .iter()
            .filter(|(name, value)| !is_service_link(name, value));
        set.map(|(name, _)| name.as_str())
            .filter(|name| !has_effect(name))
            .collect()
    }

    /// The pairs of `OTEL_RESOURCE_ATTRIBUTES`; `None` for an invalid pair.
    fn attributes(&self) -> impl Iterator<Item = Option<(&str, &str)>> {
        self.get(RESOURCE)
            .unwrap_or_default()
            .split_terminator(',')
            .map(|pair| {
                let (key, value) = pair.split_once('=')?;
                (!key.trim().is_empty()).then_some((key.trim(), value.trim()))
            })
    }

    fn read_endpoint(&self, signal: &str) -> Result<Option<String>, (String, String)> {
        let exporter = self.get(&format!("OTEL_{signal}_EXPORTER"));
        if self.get(DISABLED).is_some_and(|value| is(value, "true")) || exporter == Some("none") {
            return Ok(None);
        }
        let Some((name, endpoint)) = self.exporter_variable(signal, "ENDPOINT") else {
            return Ok(exporter.map(|_| DEFAULT_ENDPOINT.to_owned()));
        };
        let endpoint = endpoint.trim();
        let insecure = self.exporter_variable(signal, "INSECURE");
        let full = match (endpoint.contains("://"), insecure) {
            (false, Some((_, value))) if is(value, "true") => format!("http://{endpoint}"),
            (false, Some(_)) => format!("https://{endpoint}"),
            _ => endpoint.to_owned(),
        };
        let address = full.parse::<Uri>().ok().filter(|uri| {
            let known = matches!(uri.scheme_str(), Some("http" | "https"));
            known && uri.host().is_some_and(|host| !host.is_empty())
        });
        match address {
            Some(uri)
                if uri
                    .authority()
                    .is_some_and(|authority| authority.as_str().contains('@')) =>
            {
                let rule =
                    "must not hold a user or a password; OTEL_EXPORTER_OTLP_HEADERS carries credentials";
                Err((name, rule.to_owned()))
            }
            Some(_) => Ok(Some(full)),
            None => {
                let shown = endpoint.rsplit('@').next().unwrap_or_default();
                let rule = "must be http:// or https:// with a host, as in https://collector:4317";
                Err((name, format!("{rule}; is {shown}")))
            }
        }
    }
}

pub(super) fn is_secure(endpoint: &str) -> bool {
    endpoint
        .parse::<Uri>()
        .is_ok_and(|uri| uri.scheme_str() == Some("https"))
}

/// Variables that Kubernetes sets in pods for Services of the namespace: `OTEL_COLLECTOR_SERVICE_HOST` for a
/// Service called `otel-collector`.
fn is_service_link(name: &str, value: &str) -> bool {
    let address = value.starts_with("tcp://") || value.starts_with("udp://");
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || ["_TCP", "_UDP"]
            .iter()
            .any(|protocol| name.contains("_PORT_") && name.contains(protocol))
        || (name.ends_with("_PORT") && address)
}

fn is(value: &str, word: &str) -> bool {
    value.eq_ignore_ascii_case(word)
}

fn one_of(value: &str, words: &[&str]) -> bool {
    words.iter().any(|word| is(value, word))
}

fn is_header(pair: &str) -> bool {
    pair.split_once('=')
        .is_some_and(|(name, value)| name.trim().parse::<HeaderName>().is_ok() && value.is_ascii())
}

/// A variable for all signals is checked for each of them, but reported once.
fn add_once(violations: &mut Violations, name: &str, rule: &str) {
    if violations.iter().all(|violation| violation.field != name) {
        violations.add(name, rule);
    }
}

#[cfg(test)]
mod tests;
