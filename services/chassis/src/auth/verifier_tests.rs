use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};

use super::*;
use crate::auth::{ServiceTokens, issuer::Issuer, key_id};

async fn verifier(issuer: &Issuer) -> Verifier {
    let verifier = Verifier::new(&issuer.settings()).unwrap();
    verifier.keys.refresh().await.unwrap();
    verifier
}

#[tokio::test]
async fn a_good_token_proves_who_calls_for_which_facility_in_which_roles() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    let token = issuer.token(|_| {});
    for _first_and_remembered in 0..2 {
        let identity = verifier.verify(&token).await.unwrap();
        assert_eq!(identity.subject, "amal");
        assert_eq!(identity.facility, Facility::new("F1").unwrap());
        assert_eq!(identity.roles, RoleSet::from_names(["clerk"]));
        assert_eq!(identity.service, None);
    }
}

#[tokio::test]
async fn every_claim_that_is_wrong_or_missing_is_refused() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    let now = get_current_timestamp();
    let cases: Vec<(&str, Value, Refused)> = vec![
        ("exp", json!(now - 60), Refused::Expired),
        ("nbf", json!(now + 60), Refused::NotYet),
        ("iss", json!("mallory"), Refused::Issuer),
        ("aud", json!("elsewhere"), Refused::Audience),
        ("facility", Value::Null, Refused::Facility),
        ("facility", json!("F1'; --"), Refused::Facility),
        ("exp", Value::Null, Refused::Unreadable),
        ("iss", Value::Null, Refused::Unreadable),
        ("aud", Value::Null, Refused::Unreadable),
        ("sub", Value::Null, Refused::Unreadable),
    ];
    for (claim, value, refused) in cases {
        let token = issuer.token(|claims| match &value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(claim)),
            value => claims[claim] = value.clone(),
        });
        assert_eq!(verifier.verify(&token).await, Err(refused), "{claim}: {value}");
    }
}

#[tokio::test]
async fn a_token_signed_in_another_way_or_with_another_key_is_refused() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    let good = issuer.token(|_| {});
    let (_, rest) = good.split_once('.').unwrap();

    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"k1"}"#);
    assert!(verifier.verify(&format!("{none}.{rest}")).await.is_err());
    let claims = json!({"iss": "weft", "aud": "weft", "sub": "amal", "exp": get_current_timestamp() + 60, "facility": "F1"});
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("k1".to_owned());
    let public = std::fs::read(issuer.folder.path().join("jwks.json")).unwrap();
    let hmac = encode(&header, &claims, &EncodingKey::from_secret(&public)).unwrap();
    assert_eq!(verifier.verify(&hmac).await, Err(Refused::Algorithm));

    let stranger = Issuer::new();
    assert_eq!(
        verifier.verify(&stranger.token(|_| {})).await,
        Err(Refused::Signature)
    );
    let mut unknown = stranger;
    unknown.kid = "k2".to_owned();
    assert_eq!(
        verifier.verify(&unknown.token(|_| {})).await,
        Err(Refused::UnknownKey)
    );
    assert_eq!(verifier.verify("no token").await, Err(Refused::Unreadable));
}

#[tokio::test]
async fn a_remembered_token_still_expires() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    let token = issuer.token(|_| {});
    let mut verified = verifier.check(&token).await.unwrap();
    verified.expires = get_current_timestamp() - LEEWAY_S - 1;
    let hash = Sha256::digest(&token).into();
    verifier.remembered.insert(hash, Arc::new(verified));
    // Asked anew, so that the token's own expiry decides.
    assert!(verifier.verify(&token).await.is_ok());
    assert!(verifier.remembered.get(&hash).unwrap().expires > get_current_timestamp());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_new_is_found_without_waiting_for_the_next_refresh() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    let rotated = Issuer::new();
    std::fs::copy(
        rotated.folder.path().join("jwks.json"),
        issuer.folder.path().join("jwks.json"),
    )
    .unwrap();
    let public = ServiceTokens::new("order", &rotated.settings()).unwrap();
    let token = public.bearer(&Facility::new("F1").unwrap()).unwrap();
    assert_eq!(verifier.verify(&token).await, Err(Refused::UnknownKey));
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(verifier.verify(&token).await.is_ok());
}

#[tokio::test]
async fn a_services_own_token_names_the_service_and_the_facility() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    let tokens = ServiceTokens::new("order", &issuer.settings()).unwrap();
    let facility = Facility::new("F7").unwrap();
    let token = tokens.bearer(&facility).unwrap();
    assert!(
        Arc::ptr_eq(&token, &tokens.bearer(&facility).unwrap()),
        "signed once while it lasts"
    );
    let identity = verifier.verify(&token).await.unwrap();
    assert_eq!(identity.service.as_deref(), Some("order"));
    assert_eq!(identity.facility, facility);
    assert_eq!(identity.roles, RoleSet::default());
    assert_eq!(
        decode_header(&*token).unwrap().kid.unwrap().len(),
        key_id(&[0; 32]).len()
    );
}
