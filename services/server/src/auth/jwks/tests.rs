use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{Health, SecretUrl, auth::issuer::Issuer, health::Status};

/// A key server that counts requests, and responds when the test allows it.
struct Idp {
    port: u16,
    request_count: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl Idp {
    async fn new(folder: &Path) -> Idp {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let idp = Idp {
            port: listener.local_addr().unwrap().port(),
            request_count: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
        };
        let (request_count, gate, file) = (
            idp.request_count.clone(),
            idp.gate.clone(),
            folder.join("jwks.json"),
        );
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let _ = tcp.read(&mut [0; 4096]).await;
                request_count.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                let keys = std::fs::read_to_string(&file).unwrap_or_default();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{keys}", keys.len());
                let _ = tcp.write_all(answer.as_bytes()).await;
            }
        });
        idp
    }

    fn settings(&self) -> Settings {
        Settings {
            jwks_url: SecretUrl::new(format!("http://127.0.0.1:{}/", self.port)),
            jwks_allow_http: true,
            ..Settings::default()
        }
    }
}

fn spawn_refresh_loop(keys: &Arc<Keys>, health: &Health) -> tokio_util::task::AbortOnDropHandle<()> {
    let (keys, dependency) = (keys.clone(), health.dependency("jwks"));
    dependency.up();
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        keys.refresh_loop(dependency, CancellationToken::new()).await;
    }))
}

#[tokio::test]
async fn all_callers_with_a_new_key_share_one_refresh() {
    let issuer = Issuer::new();
    let idp = Idp::new(issuer.folder.path()).await;
    let keys = Arc::new(Keys::new(&idp.settings(), "order").unwrap());
    let _refreshing = spawn_refresh_loop(&keys, &Health::new());
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let keys = keys.clone();
            tokio::spawn(async move { keys.find("k1", Algorithm::EdDSA).await.is_ok() })
        })
        .collect();
    idp.gate.add_permits(1);
    for caller in callers {
        assert!(caller.await.unwrap());
    }
    assert_eq!(idp.request_count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn unknown_keys_share_a_refresh_and_do_not_delay_known_keys() {
    let issuer = Issuer::new();
    let idp = Idp::new(issuer.folder.path()).await;
    let keys = Arc::new(Keys::new(&idp.settings(), "order").unwrap());
    idp.gate.add_permits(1);
    keys.refresh().await.unwrap();
    let _refreshing = spawn_refresh_loop(&keys, &Health::new());
    for number in 0..100 {
        let unknown = keys.find(&format!("unknown-{number}"), Algorithm::EdDSA).await;
        assert_eq!(unknown.err(), Some(LookupError::Unknown));
    }
    assert_eq!(idp.request_count.load(Ordering::SeqCst), 1);
    // A caller waits for a refresh that hangs.
    keys.refreshes.send_modify(|refreshes| refreshes.ended = None);
    let waiters = tokio::spawn({
        let keys = keys.clone();
        async move { keys.find("unknown", Algorithm::EdDSA).await.is_err() }
    });
    while idp.request_count.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    assert!(keys.find("k1", Algorithm::EdDSA).await.is_ok());
    assert!(!waiters.is_finished());
}

#[tokio::test(start_paused = true)]
async fn keys_that_cannot_be_refreshed_expire() {
    let issuer = Issuer::new();
    let path = issuer.folder.path().join("jwks.json");
    let settings = Settings {
        jwks_max_age_s: 3_600,
        ..issuer.settings()
    };
    let keys = Arc::new(Keys::new(&settings, "order").unwrap());
    keys.refresh().await.unwrap();
    let health = Health::new();
    health.started();
    let _refreshing = spawn_refresh_loop(&keys, &health);
    let kept = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let known = || keys.lookup("k1", Algorithm::EdDSA).is_ok();

    // Files are read by other threads, so the loop gets time to finish.
    async fn until(what: impl Fn() -> bool) -> bool {
        for _ in 0..20_000 {
            if what() {
                return true;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        false
    }
    tokio::time::sleep(Duration::from_secs(1_800)).await;
    assert!(known() && health.status("readiness") == Status::Serving);
    assert!(until(|| !known() && health.status("readiness") == Status::NotServing).await);
    assert_eq!(keys.stale(), Some("jwks_file"));
    std::fs::write(&path, kept).unwrap();
    assert!(until(|| known() && health.status("readiness") == Status::Serving).await);
}

#[tokio::test]
async fn the_services_keys_may_be_in_a_separate_file() {
    let issuer = Issuer::new();
    let path = issuer.folder.path();
    let all: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path.join("jwks.json")).unwrap()).unwrap();
    let (services, people): (Vec<_>, Vec<_>) = all["keys"]
        .as_array()
        .unwrap()
        .iter()
        .cloned()
        .partition(|key| key.get("weft_service").is_some());
    let write = |name: &str, keys: &[serde_json::Value]| {
        std::fs::write(path.join(name), serde_json::json!({ "keys": keys }).to_string()).unwrap();
    };
    write("jwks.json", &people);
    write("services.json", &services);
    let settings = Settings {
        service_keys_file: Some(path.join("services.json")),
        ..issuer.settings()
    };
    let keys = Keys::new(&settings, "order").unwrap();
    keys.refresh().await.unwrap();
    assert!(keys.lookup("k1", Algorithm::EdDSA).is_ok() && keys.lookup("payment", Algorithm::EdDSA).is_ok());

    // The identity provider cannot use a service's key id: its document is rejected, and the last keys stay in
    // use.
    let mut stolen = people[0].clone();
    stolen["kid"] = "payment".into();
    write("jwks.json", &[stolen]);
    let error = crate::status::chain(&keys.refresh().await.unwrap_err());
    assert!(error.contains("service payment"), "{error}");
    assert!(keys.lookup("k1", Algorithm::EdDSA).is_ok());
}
