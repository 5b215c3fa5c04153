//! A service's database: its schema, row-level security by facility, and behaviour during outages.

use std::{sync::Arc, time::Duration};

use chassis::{Facility, Process, Sections, health::Status, postgres};
use proto::claims::v1::{WithdrawClaimRequest, claim_service_client::ClaimServiceClient};
use sqlx::PgPool;
use tests::{Durability, Options, Postgres, Service, Stack, TcpFaultProxy, eventually};
use tonic_health::pb::health_check_response::ServingStatus;

/// A migrated database, and a process that uses it as a service does.
pub(crate) struct Fixture {
    pub(crate) database: postgres::Database,
    pub(crate) owner: PgPool,
    pub(crate) process: Process,
    settings: postgres::Settings,
    server: Arc<Postgres>,
    _database: tests::Database,
}

impl Fixture {
    pub(crate) async fn new() -> Fixture {
        Fixture::on(Postgres::shared().await).await
    }

    async fn on(server: Arc<Postgres>) -> Fixture {
        let fresh = server.database("order").await;
        let settings = postgres::Settings {
            url: postgres::DatabaseUrl::new(fresh.app_url()),
            migrate_url: postgres::DatabaseUrl::new(fresh.owner_url()),
            ..postgres::Settings::default()
        };
        postgres::migrate(&settings, Vec::new()).await.unwrap();
        let sections = Sections {
            address_file: None,
            grpc: &chassis::server::Settings::default(),
            probe: &chassis::health::Settings::default(),
            database: &settings,
            auth: &chassis::auth::Settings::default(),
            idempotency: &chassis::idempotency::Settings::default(),
            audit: &chassis::audit::Settings::default(),
            telemetry: &chassis::telemetry::Settings::default(),
            drain: &chassis::drain::Settings::default(),
        };
        let process = sections.process("order").unwrap();
        let database = process.connect_database(&settings).unwrap();
        Fixture {
            database,
            owner: fresh.owner().await,
            process,
            settings,
            server,
            _database: fresh,
        }
    }

    async fn count(&self, facility: &Facility) -> Result<i64, sqlx::Error> {
        let mut tx = self.database.begin(facility).await?;
        let rows = sqlx::query_scalar("select count(*) from chassis.idempotency")
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(rows)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.process.shutdown.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_again_or_twice_at_once_changes_nothing() {
    let server = Postgres::shared().await;
    let fresh = server.database("order").await;
    let settings = postgres::Settings {
        url: postgres::DatabaseUrl::new(fresh.app_url()),
        migrate_url: postgres::DatabaseUrl::new(fresh.owner_url()),
        ..postgres::Settings::default()
    };
    let (one, other) = tokio::join!(
        postgres::migrate(&settings, Vec::new()),
        postgres::migrate(&settings, Vec::new())
    );
    let applied = [one.unwrap(), other.unwrap()].concat();
    assert!(
        applied
            .iter()
            .any(|set| set.name == "chassis" && !set.versions.is_empty()),
        "{applied:?}"
    );
    let again = postgres::migrate(&settings, Vec::new()).await.unwrap();
    assert!(again.iter().all(|set| set.versions.is_empty()), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_sees_one_facility_and_without_one_none() {
    let fixture = Fixture::new().await;
    let insert = "insert into chassis.idempotency (facility, method, request_id, request_hash, resource_id)
                  select 'F1', 'm', gen_random_uuid(), sha256(''), gen_random_uuid() from generate_series(1, 3)";
    sqlx::query(insert).execute(&fixture.owner).await.unwrap();
    assert_eq!(fixture.count(&Facility::new("F1").unwrap()).await.unwrap(), 3);
    assert_eq!(fixture.count(&Facility::new("F2").unwrap()).await.unwrap(), 0);
    let mut system = fixture.database.begin_system().await.unwrap();
    let none: i64 = sqlx::query_scalar("select count(*) from chassis.idempotency")
        .fetch_one(&mut *system)
        .await
        .unwrap();
    let bare: i64 = sqlx::query_scalar("select count(*) from chassis.idempotency")
        .fetch_one(fixture.database.pool())
        .await
        .unwrap();
    assert_eq!((none, bare), (0, 0));

    // It cannot write rows of another facility either.
    let mut tx = fixture
        .database
        .begin(&Facility::new("F2").unwrap())
        .await
        .unwrap();
    let refused = sqlx::query(insert).execute(&mut *tx).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "42501");
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_are_bounded_in_time() {
    let fixture = Fixture::new().await;
    let settings = postgres::Settings {
        statement_timeout_ms: 100,
        ..fixture.settings.clone()
    };
    let database = fixture.process.connect_database(&settings).unwrap();
    let slow = sqlx::query("select pg_sleep(30)")
        .execute(database.pool())
        .await
        .unwrap_err();
    assert_eq!(chassis::status::database(&slow).code(), tonic::Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_restart_is_noticed_both_ways_and_no_stale_connection_is_used() {
    let fixture = Fixture::on(Postgres::start(Durability::Fast).await).await;
    let facility = Facility::new("F1").unwrap();
    let ready = |fixture: &Fixture| fixture.process.health.down().is_empty();
    eventually(Duration::from_secs(5), || async { ready(&fixture) }).await;
    // Opens connections that become stale.
    futures_util::future::join_all((0..8).map(|_| fixture.count(&facility))).await;

    fixture.server.stop().await;
    eventually(Duration::from_secs(2), || async { !ready(&fixture) }).await;
    assert_eq!(fixture.process.health.status("liveness"), Status::Serving);

    fixture.server.restart().await;
    eventually(Duration::from_secs(5), || async { ready(&fixture) }).await;
    for counted in futures_util::future::join_all((0..16).map(|_| fixture.count(&facility))).await {
        counted.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmigrated_database_is_reported_by_set_and_version() {
    let server = Postgres::shared().await;
    let fresh = server.database("order").await;
    let settings = postgres::Settings {
        url: postgres::DatabaseUrl::new(fresh.app_url()),
        migrate_url: postgres::DatabaseUrl::new(fresh.owner_url()),
        ..postgres::Settings::default()
    };
    let lacking = postgres::missing_migrations(&settings, &[]).await.unwrap();
    assert_eq!(
        (lacking[0].name, lacking[0].versions.first()),
        ("chassis", Some(&1))
    );
    postgres::migrate(&settings, Vec::new()).await.unwrap();
    assert_eq!(postgres::missing_migrations(&settings, &[]).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_not_ready_until_its_database_is_migrated() {
    let stack = Stack::with(Options::default().only(&[])).await;
    let schema = "drop schema weft_migrations cascade";
    sqlx::query(schema)
        .execute(&stack.database(Service::Claims).superuser().await)
        .await
        .unwrap();
    stack.spawn(Service::Claims);
    eventually(Duration::from_secs(15), || async {
        stack
            .health(Service::Claims, "startup")
            .await
            .is_ok_and(|status| status == ServingStatus::Serving)
    })
    .await;
    let readiness = stack.health(Service::Claims, "readiness").await.unwrap();
    assert_eq!(readiness, ServingStatus::NotServing);
    eventually(Duration::from_secs(15), || async {
        stack.log(Service::Claims).contains("run `claims migrate`")
    })
    .await;
}

/// Starts a service that must refuse to serve on its database, and waits until it has stopped with this message.
async fn is_refused(stack: &Stack, words: &str) {
    stack.spawn(Service::Claims);
    eventually(Duration::from_secs(20), || async {
        let log = stack.log(Service::Claims);
        let mut lines = log.lines();
        lines.any(|line| line.contains("stopped by a failure") && line.contains(words))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_bypasses_row_level_security_is_refused_with_a_reason() {
    let stack = Stack::with(Options::default().own_postgres(Durability::Fast).only(&[])).await;
    let superuser = stack.database(Service::Claims).superuser().await;
    for (grant, revoke, words) in [
        (
            "alter role claims_app bypassrls",
            "alter role claims_app nobypassrls",
            "BYPASSRLS",
        ),
        (
            "grant claims_owner to claims_app",
            "revoke claims_owner from claims_app",
            "owns tables",
        ),
    ] {
        sqlx::query(grant).execute(&superuser).await.unwrap();
        is_refused(&stack, words).await;
        sqlx::query(revoke).execute(&superuser).await.unwrap();
    }
    stack.restart(Service::Claims).await;
}

/// A pooler is detected by its sessions' answers, not by their latency.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_is_not_mistaken_for_a_pooler() {
    let server = Postgres::shared().await;
    let fresh = server.database("order").await;
    let link = TcpFaultProxy::start(&format!("127.0.0.1:{}", server.port())).await;
    let address: std::net::SocketAddr = link.address().parse().unwrap();
    let options = postgres::DatabaseUrl::new(fresh.app_url())
        .connect_options()
        .unwrap();
    let options = options.port(address.port());
    assert_eq!(
        postgres::unmet_requirements(&options).await.unwrap(),
        Vec::<String>::new()
    );
    link.delay(Duration::from_millis(1_050));
    let slow = postgres::unmet_requirements(&options).await;
    assert!(matches!(slow, Err(sqlx::Error::PoolTimedOut)), "{slow:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_server_is_unavailable_and_not_ready_and_comes_back_by_itself() {
    let stack = Stack::with(
        Options::default()
            .own_postgres(Durability::Fast)
            .only(&[Service::Claims]),
    )
    .await;
    let superuser = stack.database(Service::Claims).superuser().await;
    let token = stack.token("F1", &["clerk"]);
    let withdraw = async || {
        let mut claims = ClaimServiceClient::new(stack.connect(Service::Claims, &token));
        let request = WithdrawClaimRequest {
            request_id: uuid::Uuid::new_v4().to_string(),
            order_id: uuid::Uuid::new_v4().to_string(),
            ..WithdrawClaimRequest::default()
        };
        claims
            .withdraw_claim(request)
            .await
            .map_or_else(|status| status.code(), |_| tonic::Code::Ok)
    };
    assert_eq!(withdraw().await, tonic::Code::Ok);
    let readiness = async |wanted: ServingStatus| {
        eventually(Duration::from_secs(15), || async {
            stack
                .health(Service::Claims, "readiness")
                .await
                .is_ok_and(|status| status == wanted)
        })
        .await;
    };
    for (read_only, writable) in [
        (
            "alter system set default_transaction_read_only = on",
            "alter system reset default_transaction_read_only",
        ),
        // As if the role were moved to another server.
        ("alter role claims_app nologin", "alter role claims_app login"),
        // SQLSTATE 53300, as with max_connections.
        (
            "alter role claims_app connection limit 0",
            "alter role claims_app connection limit -1",
        ),
    ] {
        sqlx::query(read_only).execute(&superuser).await.unwrap();
        for statement in [
            "select pg_reload_conf()",
            "select pg_terminate_backend(pid) from pg_stat_activity
             where usename = 'claims_app'
               and exists (select from pg_roles where rolname = 'claims_app' and (not rolcanlogin or rolconnlimit = 0))",
        ] {
            sqlx::query(statement).execute(&superuser).await.unwrap();
        }
        readiness(ServingStatus::NotServing).await;
        if read_only.contains("transaction_read_only") {
            eventually(Duration::from_secs(15), || async {
                stack.log(Service::Claims).contains("the server is read-only")
            })
            .await;
        }
        assert_eq!(withdraw().await, tonic::Code::Unavailable, "{read_only}");
        sqlx::query("set default_transaction_read_only = off")
            .execute(&superuser)
            .await
            .unwrap();
        sqlx::query(writable).execute(&superuser).await.unwrap();
        sqlx::query("select pg_reload_conf()")
            .execute(&superuser)
            .await
            .unwrap();
        readiness(ServingStatus::Serving).await;
        assert_eq!(withdraw().await, tonic::Code::Ok, "{writable}");
    }
}
