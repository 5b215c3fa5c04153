//! Page tokens stay valid beyond the process that issued them.

use proto::payment::v1::ListPaymentsRequest;
use tests::Service;
use uuid::Uuid;

use crate::{cli_fixture::finished, payment_fixture::Fixture};

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_survives_a_restart() {
    let fixture = Fixture::start().await;
    for _ in 0..2 {
        fixture
            .authorize(Uuid::new_v4(), 1_000, "tok_visa")
            .await
            .unwrap();
    }
    let page = |page_token: String| {
        let mut payments = fixture.payments.clone();
        let request = ListPaymentsRequest {
            page_size: 1,
            page_token,
            ..ListPaymentsRequest::default()
        };
        async move { payments.list_payments(request).await.unwrap().into_inner() }
    };
    let first = page(String::new()).await;
    fixture.stack.kill9(Service::Payment);
    fixture.stack.restart(Service::Payment).await;
    let second = page(first.next_page_token).await;
    assert_eq!((first.payments.len(), second.payments.len()), (1, 1));
    assert_ne!(first.payments[0].id, second.payments[0].id);
}

/// The migration job has no keys, and should need none.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_needs_only_the_settings_of_the_database() {
    let fixture = Fixture::start().await;
    for service in Service::ALL {
        let database = fixture.stack.database(service);
        let mut command = std::process::Command::new(tests::program(service.name()).await);
        command.args(["migrate", "--set"]);
        command.arg(format!("database.url={}", database.app_url()));
        command.arg("--set");
        command.arg(format!("database.migrate_url={}", database.owner_url()));
        let migrated = finished(command).await;
        assert!(
            migrated.status.success(),
            "{service}: {}",
            String::from_utf8_lossy(&migrated.stderr)
        );
    }
}
