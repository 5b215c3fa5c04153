use std::{io::Write, path::Path};

use serde::{Deserialize, Serialize};

use super::*;
use crate::{Secret, audit, auth, drain, health, idempotency, postgres, server, telemetry};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
struct Shop {
    address_file: Option<PathBuf>,
    grpc: server::Settings,
    probe: health::Settings,
    database: postgres::Settings,
    auth: auth::Settings,
    idempotency: idempotency::Settings,
    audit: audit::Settings,
    telemetry: telemetry::Settings,
    drain: drain::Settings,
    window_s: u32,
    retries: Option<u32>,
    currencies: Vec<String>,
    policy: BTreeMap<String, String>,
    key: Secret,
}

impl Default for Shop {
    fn default() -> Shop {
        Shop {
            address_file: None,
            grpc: server::Settings::default(),
            probe: health::Settings::default(),
            database: postgres::Settings::for_service("shop"),
            auth: auth::Settings {
                jwks_file: Some("jwks.json".into()),
                ..auth::Settings::default()
            },
            idempotency: idempotency::Settings::default(),
            audit: audit::Settings::default(),
            telemetry: telemetry::Settings::default(),
            drain: drain::Settings::default(),
            window_s: 60,
            retries: None,
            currencies: vec!["AED".to_owned()],
            policy: BTreeMap::new(),
            key: Secret::default(),
        }
    }
}

impl Settings for Shop {
    fn sections(&self) -> Sections<'_> {
        Sections {
            address_file: self.address_file.as_deref(),
            grpc: &self.grpc,
            probe: &self.probe,
            database: &self.database,
            auth: &self.auth,
            idempotency: &self.idempotency,
            audit: &self.audit,
            telemetry: &self.telemetry,
            drain: &self.drain,
        }
    }

    fn check(&self, violations: &mut Violations) {
        violations.require(self.window_s <= 3600, "window_s", "must be at most 3600");
    }
}

fn sources(file: Option<&Path>, environment: &[(&str, &str)], flags: &[&str]) -> Sources {
    Sources {
        file: file.map(Path::to_owned),
        environment: environment
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
        flags: flags.iter().map(ToString::to_string).collect(),
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn fields(effective: &Effective<Shop>) -> Vec<&str> {
    effective
        .violations()
        .iter()
        .map(|violation| violation.field.as_str())
        .collect()
}

#[test]
fn the_defaults_are_valid() {
    assert_eq!(
        fields(&load::<Shop>("shop", &Sources::default())),
        Vec::<&str>::new()
    );
}

#[test]
fn flags_win_over_the_environment_that_over_the_file_and_that_over_defaults() {
    let file = file("window_s = 1\n[grpc]\nmax_in_flight = 1\nmax_connections = 1\n");
    let effective = load::<Shop>(
        "shop",
        &sources(
            Some(file.path()),
            &[
                ("SHOP__WINDOW_S", "2"),
                ("SHOP__GRPC__MAX_IN_FLIGHT", "2"),
                ("OTHER__WINDOW_S", "9"),
            ],
            &["window_s=3"],
        ),
    );
    let printed = effective.to_string();
    let settings = effective.into_settings().unwrap();
    assert_eq!(
        (
            settings.window_s,
            settings.grpc.max_in_flight,
            settings.grpc.max_connections
        ),
        (3, 2, 1)
    );
    assert_eq!(settings.drain.grace_ms, 20_000);
    for line in [
        "window_s = 3  # flag",
        "grpc.max_in_flight = 2  # environment SHOP__GRPC__MAX_IN_FLIGHT",
        "grpc.max_connections = 1  # file",
        "drain.grace_ms = 20000  # default",
        "# retries is not set",
    ] {
        assert!(printed.contains(line), "{line} is not in\n{printed}");
    }
}

#[test]
fn all_violations_are_reported_together() {
    let file = file("window = 5\nwindow_s = 7200\n[grpc]\nlisten = \"nowhere\"\nmax_in_flight = 0\n");
    let effective = load::<Shop>(
        "shop",
        &sources(
            Some(file.path()),
            &[
                ("SHOP__DATABASE__URL", "mysql://h/d"),
                ("SHOP__DRAIN__GRACE", "1"),
            ],
            &["retries=many", "auth.issuer=", "nonsense"],
        ),
    );
    let mut found = fields(&effective);
    found.sort_unstable();
    let expected = [
        "--set",
        "auth.issuer",
        "database.url",
        "drain.grace",
        "grpc.listen",
        "grpc.max_in_flight",
        "retries",
        "window",
        "window_s",
    ];
    assert_eq!(found, expected);
}

#[test]
fn an_unknown_setting_names_the_nearest_one_wherever_it_comes_from() {
    let file = file("[databse]\nurl = \"x\"\n[grpc]\nmax_in_fligth = 1\n");
    let effective = load::<Shop>(
        "shop",
        &sources(
            Some(file.path()),
            &[("SHOP__DRAIN__GRACE", "1"), ("SHOP__DRAIN", "1")],
            &["databse.url=x", "zzz=1"],
        ),
    );
    let violations = effective.violations().to_string();
    for text in [
        "databse: is not a setting, did you mean database? (file)",
        "grpc.max_in_fligth: is not a setting, did you mean grpc.max_in_flight? (file)",
        "drain.grace: is not a setting, did you mean drain.grace_ms? (environment SHOP__DRAIN__GRACE)",
        "drain: is a section, not a setting (environment SHOP__DRAIN)",
        "databse.url: is not a setting, did you mean database.url? (flag)",
        "zzz: is not a setting (flag)",
    ] {
        assert!(violations.contains(text), "{text} is not in {violations}");
    }
}

#[test]
fn a_number_that_a_setting_cannot_hold_is_refused_with_its_bounds() {
    let flags = ["grpc.max_in_flight=-1", "window_s=5000000000", "retries=many"];
    let effective = load::<Shop>("shop", &sources(None, &[], &flags));
    let violations = effective.violations().to_string();
    for setting in ["grpc.max_in_flight", "window_s", "retries"] {
        assert!(violations.contains(setting), "{violations}");
    }
    assert_eq!(
        violations.matches("must be a whole number from 0 to ").count(),
        3,
        "{violations}"
    );
    assert!(
        !violations.contains("u32") && !violations.contains("usize"),
        "{violations}"
    );
}

#[test]
fn text_is_read_as_the_setting_needs_it() {
    let effective = load::<Shop>(
        "shop",
        &sources(
            None,
            &[
                ("SHOP__CURRENCIES", "AED, KWD"),
                ("SHOP__RETRIES", "3"),
                ("SHOP__POLICY__E001", "review"),
            ],
            &["address_file=/tmp/7", "probe.listen=127.0.0.1:0"],
        ),
    );
    let settings = effective.into_settings().unwrap();
    assert_eq!(settings.currencies, ["AED", "KWD"]);
    assert_eq!(settings.retries, Some(3));
    assert_eq!(settings.policy["e001"], "review");
    assert_eq!(settings.address_file, Some(PathBuf::from("/tmp/7")));
}

#[test]
fn secrets_are_read_and_never_printed() {
    let effective = load::<Shop>(
        "shop",
        &sources(
            None,
            &[
                ("SHOP__KEY", "hunter2"),
                ("SHOP__DATABASE__URL", "postgres://app:hunter2@h/d"),
            ],
            &[],
        ),
    );
    let printed = format!("{effective}{effective:?}");
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(printed.contains("key = \"[redacted]\""));
    let settings = effective.into_settings().unwrap();
    assert_eq!(settings.key.expose(), "hunter2");
    assert_eq!(settings.database.url.expose(), "postgres://app:hunter2@h/d");
}

#[test]
fn a_missing_or_invalid_file_is_a_violation() {
    assert_eq!(
        fields(&load::<Shop>(
            "shop",
            &sources(Some(Path::new("/nowhere")), &[], &[])
        )),
        ["/nowhere"]
    );
    let broken = file("window_s = ");
    assert_eq!(
        fields(&load::<Shop>("shop", &sources(Some(broken.path()), &[], &[]))).len(),
        1
    );
}

#[test]
fn a_section_that_is_left_out_by_default_can_be_set_key_by_key() {
    let environment = [
        ("SHOP__GRPC__TLS__CERT_FILE", "/mesh/tls.crt"),
        ("SHOP__GRPC__TLS__KEY_FILE", "/mesh/tls.key"),
        ("SHOP__GRPC__TLS__CLIENT_CA_FILE", "/mesh/ca.crt"),
        ("SHOP__GRPC__TLS__TRUST_DOMAIN", "weft"),
        ("SHOP__GRPC__TLS__CLIENT_IDS", r#"["spiffe://weft/order"]"#),
    ];
    let effective = load::<Shop>("shop", &sources(None, &environment, &[]));
    let tls = effective.into_settings().unwrap().grpc.tls.unwrap();
    assert_eq!(tls.cert_file, PathBuf::from("/mesh/tls.crt"));
    assert_eq!(tls.client_ids, ["spiffe://weft/order"]);

    let slip = load::<Shop>("shop", &sources(None, &environment, &["grpc.tls.certfile=/c"]));
    assert_eq!(fields(&slip), ["grpc.tls.certfile"]);
    let foreign = ["grpc.tls.client_ids=[\"spiffe://other/order\"]"];
    let foreign = load::<Shop>("shop", &sources(None, &environment, &foreign));
    assert_eq!(fields(&foreign), ["grpc.tls.client_ids"]);
}

#[test]
fn settings_for_one_section_ignore_violations_in_others() {
    let wrong = |text: &str| {
        let file = file(text);
        let effective = load::<Shop>("shop", &sources(Some(file.path()), &[], &[]));
        let of_database = effective.into_settings_for("database");
        of_database.err().map(|violations| violations.to_string())
    };
    assert_eq!(
        wrong("window_s = 7200\n[grpc]\nmax_in_flight = 0\n[auth]\nissuer = \"\"\n"),
        None
    );
    assert!(
        wrong("[database]\nmax_connections = 0\n")
            .unwrap()
            .contains("database.max_connections")
    );
    assert!(
        wrong("[databse]\nurl = \"x\"\n").is_some(),
        "a slip must not go unseen"
    );
}
