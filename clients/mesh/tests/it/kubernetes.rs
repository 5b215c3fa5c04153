//! Endpoints from the Kubernetes API.

use std::{fs, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::Code;
use weft_mesh::{Channel, KubernetesApi};

use crate::{
    echo::{self, READ, Server},
    kubernetes_api::Api,
};

/// The mounted files of a pod's service account.
struct Account(TempDir);

impl Account {
    fn new(token: &str) -> Account {
        let account = Account(tempfile::tempdir().unwrap());
        account.write("token", token);
        account.write("namespace", "weft\n");
        account
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.0.path().join(name), content).unwrap();
    }

    fn channel(&self, url: String) -> Channel {
        self.channel_to("k8s:http://payment:grpc", url)
    }

    fn channel_to(&self, target: &str, url: String) -> Channel {
        let mut options = echo::options(&[]);
        options.target = target.to_owned();
        options.tuning.kubernetes = KubernetesApi {
            url: Some(url),
            account_folder: self.0.path().to_owned(),
        };
        Channel::connect(options, &echo::policies()).unwrap()
    }

    fn plain(&self, api: &Api) -> Channel {
        self.channel(format!("http://{}", api.address))
    }
}

fn ready(address: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false}})
}

/// Waits until the channel has exactly these endpoints.
async fn wait_for_endpoints(channel: &Channel, expected: &[&str]) {
    let waiting = async {
        while endpoints(channel) != expected {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = timeout(Duration::from_secs(30), waiting).await;
    waited.unwrap_or_else(|_| panic!("{:?} instead of {expected:?}", endpoints(channel)));
}

fn endpoints(channel: &Channel) -> Vec<String> {
    let endpoints = channel.snapshot().endpoints;
    endpoints.into_iter().map(|endpoint| endpoint.address).collect()
}

async fn wait_for_request(api: &Api, request: &str) {
    let waiting = async {
        while api.requests().last().map(String::as_str) != Some(request) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = timeout(Duration::from_secs(30), waiting).await;
    waited.unwrap_or_else(|_| panic!("no {request} in {:?}", api.requests()));
}

#[tokio::test]
async fn calls_go_to_the_pods_of_a_service_and_follow_its_changes() {
    let first = Server::start(|_| async { Ok("first".to_owned()) });
    let second = Server::start(|_| async { Ok("second".to_owned()) });
    let api = Api::start("t").await;
    let account = Account::new("t");
    let channel = account.plain(&api);
    api.put("payment-a", first.address.port(), &[ready("127.0.0.1")]);
    while echo::call_empty(&channel, READ).await.is_err() {
        tokio::task::yield_now().await;
    }
    let port = second.address.port();
    api.put("payment-a", port, &[ready("127.0.0.1")]);
    while echo::call_empty(&channel, READ).await.unwrap() != "second" {}
    assert_eq!(
        channel.snapshot().endpoints[0].authority,
        format!("payment.weft:{port}")
    );
    api.delete("payment-a");
    wait_for_endpoints(&channel, &[]).await;
    let refused = echo::call_empty(&channel, READ).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        refused.message().contains("no endpoint that is ready"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_pods_of_several_services_have_the_labels_of_their_service() {
    let stable = Server::start(|_| async { Ok("stable".to_owned()) });
    let canary = Server::start(|_| async { Ok("canary".to_owned()) });
    let api = Api::start("t").await;
    api.put("payment-a", stable.address.port(), &[ready("127.0.0.1")]);
    let account = Account::new("t");
    let target = "k8s:http://payment:grpc;version=v1, http://canary:grpc;version=v2";
    let channel = account.channel_to(target, format!("http://{}", api.address));
    let labelled = |version: &str| {
        let endpoints = channel.snapshot().endpoints.into_iter();
        let mut connected = endpoints.filter(|endpoint| endpoint.connected);
        connected.any(|endpoint| endpoint.labels["version"] == version)
    };
    while !labelled("v1") {
        tokio::task::yield_now().await;
    }
    // The canary begins later and ends earlier than the stable version.
    api.put("canary-a", canary.address.port(), &[ready("127.0.0.1")]);
    while !labelled("v2") {
        tokio::task::yield_now().await;
    }
    channel.reconfigure(crate::routes::ONLY_V2).unwrap();
    assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "canary");
    api.delete("canary-a");
    while labelled("v2") {
        tokio::task::yield_now().await;
    }
    assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "stable");
}

#[tokio::test]
async fn a_list_of_many_pages_is_read_to_its_end() {
    let api = Api::start("t").await;
    for slice in 1..=5 {
        api.put(
            &format!("payment-{slice}"),
            1,
            &[ready(&format!("127.0.1.{slice}"))],
        );
    }
    let account = Account::new("t");
    let channel = account.plain(&api);
    let all = [
        "127.0.1.1:1",
        "127.0.1.2:1",
        "127.0.1.3:1",
        "127.0.1.4:1",
        "127.0.1.5:1",
    ];
    wait_for_endpoints(&channel, &all).await;
    wait_for_request(&api, &format!("watch {}", api.version())).await;
}

#[tokio::test]
async fn an_interrupted_watch_is_resumed_without_a_list() {
    let api = Api::start("t").await;
    api.put("payment-a", 1, &[ready("127.0.1.1")]);
    let account = Account::new("t");
    let channel = account.plain(&api);
    wait_for_endpoints(&channel, &["127.0.1.1:1"]).await;
    wait_for_request(&api, "watch 101").await;
    api.put("payment-b", 1, &[ready("127.0.1.2")]);
    wait_for_endpoints(&channel, &["127.0.1.1:1", "127.0.1.2:1"]).await;
    // The bookmark has arrived once the change after it has arrived.
    api.bookmark();
    api.put("payment-b", 1, &[ready("127.0.1.3")]);
    wait_for_endpoints(&channel, &["127.0.1.1:1", "127.0.1.3:1"]).await;
    api.bookmark();
    api.cut();
    wait_for_request(&api, "watch 105").await;
    api.delete("payment-a");
    wait_for_endpoints(&channel, &["127.0.1.3:1"]).await;
    let lists = api.requests().iter().filter(|request| *request == "list").count();
    assert_eq!(lists, 1, "{:?}", api.requests());
}

#[tokio::test]
async fn slices_are_listed_again_when_the_version_has_expired() {
    let api = Api::start("t").await;
    api.put("payment-a", 1, &[ready("127.0.1.1")]);
    let account = Account::new("t");
    let channel = account.plain(&api);
    wait_for_endpoints(&channel, &["127.0.1.1:1"]).await;
    wait_for_request(&api, "watch 101").await;
    // Reported on the open watch.
    api.forget();
    wait_for_request(&api, "watch 102").await;
    assert_eq!(api.requests(), ["list", "watch 101", "list", "watch 102"]);
    // Reported to the next watch: the change in between would be lost without the list.
    api.accept_only("another");
    api.cut();
    wait_for_request(&api, "401").await;
    api.delete("payment-a");
    api.put("payment-b", 1, &[ready("127.0.1.2")]);
    api.forget();
    api.accept_only("t");
    wait_for_endpoints(&channel, &["127.0.1.2:1"]).await;
}

#[tokio::test]
async fn the_token_is_read_for_each_request_and_endpoints_stay_while_it_is_rejected() {
    let api = Api::start("first").await;
    api.put("payment-a", 1, &[ready("127.0.1.1")]);
    let account = Account::new("first");
    let channel = account.plain(&api);
    wait_for_endpoints(&channel, &["127.0.1.1:1"]).await;
    wait_for_request(&api, "watch 101").await;
    api.accept_only("second");
    api.cut();
    wait_for_request(&api, "401").await;
    assert_eq!(endpoints(&channel), ["127.0.1.1:1"]);
    account.write("token", "second\n");
    wait_for_request(&api, "watch 101").await;
    api.put("payment-a", 1, &[ready("127.0.1.2")]);
    wait_for_endpoints(&channel, &["127.0.1.2:1"]).await;
}

#[tokio::test]
async fn only_the_accounts_authority_is_trusted_for_the_api() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, key).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let api = Api::with_tls("t", TlsAcceptor::from(Arc::new(tls))).await;
    api.put("payment-a", 1, &[ready("127.0.1.1")]);

    let account = Account::new("t");
    let key = KeyPair::generate().unwrap();
    let foreign = CertificateParams::default().self_signed(&key).unwrap();
    account.write("ca.crt", &foreign.pem());
    let channel = account.channel(format!("https://{}", api.address));
    let refused = echo::call_empty(&channel, READ).await.unwrap_err();
    assert!(
        refused.message().contains("invalid peer certificate"),
        "{refused}"
    );
    assert!(api.requests().is_empty());
    account.write("ca.crt", &authority.pem());
    wait_for_endpoints(&channel, &["127.0.1.1:1"]).await;
}
