use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};

use super::*;
use crate::{
    Tenant,
    auth::{ServiceTokens, issuer::Issuer},
};

async fn verifier(issuer: &Issuer) -> Verifier {
    verifier_with(&issuer.settings()).await
}

async fn verifier_with(settings: &Settings) -> Verifier {
    let verifier = Verifier::new(settings, "order").unwrap();
    verifier.keys.refresh().await.unwrap();
    verifier.with_tenants(TenantClaim::Required("facility"))
}

#[tokio::test]
async fn a_valid_token_proves_subject_tenant_and_roles() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    let token = issuer.token(|_| {});
    for _first_and_remembered in 0..2 {
        let identity = verifier.verify(&token).await.unwrap();
        assert_eq!(identity.subject, "amal");
        assert_eq!(identity.tenant, Some(Tenant::new("F1").unwrap()));
        assert_eq!(identity.roles, ["clerk", "not-ours"]);
        assert_eq!(identity.service, None);
    }
}

#[tokio::test]
async fn every_invalid_or_missing_claim_is_rejected_by_name() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    let now = get_current_timestamp();
    let seconds = "a number of seconds since 1970";
    let subject = TokenError::Claim("sub", "one line of 1 to 256 characters");
    let roles = TokenError::Claim("roles", "a list of at most 256 texts");
    let cases: Vec<(&str, Value, TokenError)> = vec![
        ("exp", json!(now - 60), TokenError::Expired),
        ("exp", json!(now as f64 - 5.5), TokenError::Expired),
        ("exp", json!("soon"), TokenError::Claim("exp", seconds)),
        ("exp", json!(-1), TokenError::Claim("exp", seconds)),
        ("exp", json!(1e300), TokenError::Claim("exp", seconds)),
        ("nbf", json!(now + 60), TokenError::NotYet),
        ("nbf", json!([]), TokenError::Claim("nbf", seconds)),
        ("iat", json!(now + 60), TokenError::IssuedInFuture),
        ("iss", json!("mallory"), TokenError::Issuer),
        ("iss", json!(["weft"]), TokenError::Claim("iss", "text")),
        ("aud", json!("elsewhere"), TokenError::Audience),
        ("aud", json!(["a", "b"]), TokenError::Audience),
        (
            "aud",
            json!(7),
            TokenError::Claim("aud", "text or a list of texts"),
        ),
        ("facility", Value::Null, TokenError::Tenant("facility")),
        ("facility", json!("F1\n"), TokenError::Tenant("facility")),
        ("facility", json!(1), TokenError::Tenant("facility")),
        ("exp", Value::Null, TokenError::Missing("exp")),
        ("iss", Value::Null, TokenError::Missing("iss")),
        ("aud", Value::Null, TokenError::Missing("aud")),
        ("sub", Value::Null, TokenError::Missing("sub")),
        ("sub", json!(""), subject),
        ("sub", json!("a\u{0}b"), subject),
        ("sub", json!("a\u{202e}b"), subject),
        ("sub", json!("a".repeat(257)), subject),
        ("roles", json!("admin"), roles),
        ("roles", json!([1]), roles),
        ("roles", json!(vec!["clerk"; 257]), roles),
    ];
    for (claim, value, refused) in cases {
        let token = issuer.token(|claims| match &value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(claim)),
            value => claims[claim] = value.clone(),
        });
        assert_eq!(
            verifier.verify(&token).await.err(),
            Some(refused),
            "{claim}: {value}"
        );
    }
}

#[tokio::test]
async fn times_may_have_a_fraction_and_an_audience_may_be_one_text() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    let now = get_current_timestamp() as f64;
    let token = issuer.token(|claims| {
        claims["exp"] = json!(now + 59.75);
        claims["nbf"] = json!(now - 0.25);
        claims["iat"] = json!(now - 0.5);
        claims["aud"] = json!("weft");
        claims["unknown"] = json!({"left": "alone"});
    });
    assert_eq!(verifier.verify(&token).await.unwrap().subject, "amal");
}

#[tokio::test]
async fn clocks_may_differ_by_the_leeway_and_no_more() {
    let issuer = Issuer::new();
    let mut settings = issuer.settings();
    settings.leeway_s = 120;
    let (strict, patient) = (verifier(&issuer).await, verifier_with(&settings).await);
    let now = get_current_timestamp();
    for (claim, value) in [("exp", now - 60), ("nbf", now + 60), ("iat", now + 60)] {
        let token = issuer.token(|claims| claims[claim] = value.into());
        assert!(strict.verify(&token).await.is_err(), "{claim}");
        assert!(patient.verify(&token).await.is_ok(), "{claim}");
    }
}

#[tokio::test]
async fn a_header_with_unsupported_members_is_rejected() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    let cases = [
        ("crit", json!(["exp"]), TokenError::Critical),
        ("b64", json!(false), TokenError::Critical),
        ("typ", json!("logout+jwt"), TokenError::Type),
        ("typ", json!(7), TokenError::Type),
        ("alg", json!("none"), TokenError::Algorithm),
        ("alg", json!("RS512"), TokenError::Algorithm),
        ("alg", json!("RS256"), TokenError::KeyAlgorithm),
        ("kid", Value::Null, TokenError::NoKeyId),
    ];
    for (name, value, refused) in cases {
        let token = issuer.with_header(|header| header[name] = value.clone(), |_| {});
        assert_eq!(
            verifier.verify(&token).await.err(),
            Some(refused),
            "{name}: {value}"
        );
    }
    for kind in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        let token = issuer.with_header(|header| header["typ"] = kind.into(), |_| {});
        assert!(verifier.verify(&token).await.is_ok(), "{kind}");
    }
}

#[tokio::test]
async fn a_token_signed_in_another_way_or_with_another_key_is_refused() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    let claims = json!({"iss": "weft", "aud": "weft", "sub": "amal", "exp": get_current_timestamp() + 60, "facility": "F1"});
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("k1".to_owned());
    let public = std::fs::read(issuer.folder.path().join("jwks.json")).unwrap();
    let hmac = encode(&header, &claims, &EncodingKey::from_secret(&public)).unwrap();
    assert_eq!(verifier.verify(&hmac).await.err(), Some(TokenError::Algorithm));

    let other_issuer = Issuer::new();
    assert_eq!(
        verifier.verify(&other_issuer.token(|_| {})).await.err(),
        Some(TokenError::Signature)
    );
    let mut unknown = other_issuer;
    unknown.kid = "k2".to_owned();
    assert_eq!(
        verifier.verify(&unknown.token(|_| {})).await.err(),
        Some(TokenError::UnknownKey)
    );
}

#[tokio::test]
async fn a_malformed_token_is_rejected_with_the_reason() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    let good = issuer.token(|_| {});
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("three parts")
    };
    let array = URL_SAFE_NO_PAD.encode("[]");
    for (token, refused) in [
        ("no token".to_owned(), TokenError::Shape),
        (format!("{header}.{payload}"), TokenError::Shape),
        (format!("{good}.{signature}"), TokenError::Shape),
        (format!("{header}=.{payload}.{signature}"), TokenError::Shape),
        (format!("{good}="), TokenError::Shape),
        (format!("{array}.{payload}.{signature}"), TokenError::Header),
        (format!("{header}.{payload}.{array}"), TokenError::Signature),
        ("a".repeat(8 * 1024 + 1), TokenError::TooLong),
    ] {
        assert_eq!(verifier.verify(&token).await.err(), Some(refused), "{token:.40}");
    }
}

#[tokio::test]
async fn an_identity_provider_may_sign_by_each_allowed_algorithm_and_no_other() {
    let issuer = Issuer::with_all_algorithms();
    let all = verifier(&issuer).await;
    let mut settings = issuer.settings();
    settings.algorithms = vec!["EdDSA".to_owned()];
    let strict = verifier_with(&settings).await;
    for kid in ["ec", "rsa", "pss"] {
        let token = issuer.signed_by(kid, |_| {});
        let identity = all.verify(&token).await.unwrap();
        assert!(identity.has_role("clerk"), "{kid}");
        let (head, signature) = token.rsplit_once('.').unwrap();
        let mut wrong = URL_SAFE_NO_PAD.decode(signature).unwrap();
        wrong[9] ^= 1;
        let forged = format!("{head}.{}", URL_SAFE_NO_PAD.encode(wrong));
        assert_eq!(
            all.verify(&forged).await.err(),
            Some(TokenError::Signature),
            "{kid}"
        );
        assert_eq!(
            strict.verify(&token).await.err(),
            Some(TokenError::UnknownKey),
            "{kid}"
        );
    }
    // The services' keys are independent of the identity provider's algorithms.
    assert!(strict.verify(&issuer.service_token("payment")).await.is_ok());
}

#[tokio::test]
async fn a_services_key_signs_for_that_service_alone() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    let identity = verifier.verify(&issuer.service_token("payment")).await.unwrap();
    assert_eq!(identity.service.as_deref(), Some("payment"));
    for bend in [
        // A forged administrator: any facility, all roles.
        (|claims| claims["roles"] = json!(["admin"])) as fn(&mut Value),
        |claims| claims["roles"] = json!([]),
        |claims| claims["service"] = "order".into(),
        |claims| claims["service"] = "payment".into(),
    ] {
        let token = issuer.signed_by("payment", bend);
        assert_eq!(
            verifier.verify(&token).await.err(),
            Some(TokenError::ServiceMismatch)
        );
    }
}

#[tokio::test]
async fn the_identity_providers_keys_sign_for_no_service() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    for (claim, value) in [("service", "order"), ("service", ""), ("sub", "service:order")] {
        let token = issuer.token(|claims| claims[claim] = value.into());
        assert_eq!(
            verifier.verify(&token).await.err(),
            Some(TokenError::ServiceFromProvider),
            "{claim}"
        );
    }
}

#[tokio::test]
async fn a_cached_token_still_expires_and_a_withdrawn_key_is_rejected_at_once() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    let token = issuer.token(|_| {});
    let mut verified = verifier.check(&token).await.unwrap();
    verified.expires = now() - 6.0;
    let hash = Sha256::digest(&token).into();
    verifier.cache.insert(hash, Arc::new(verified));
    // Verified again, so that the token's own expiry decides.
    assert!(verifier.verify(&token).await.is_ok());
    assert!(verifier.cache.get(&hash).unwrap().expires > now());

    let other = Issuer::new();
    let withdrawn = std::fs::read(other.folder.path().join("jwks.json")).unwrap();
    let withdrawn = String::from_utf8(withdrawn).unwrap().replace("k1", "k9");
    std::fs::write(issuer.folder.path().join("jwks.json"), withdrawn).unwrap();
    verifier.keys.refresh().await.unwrap();
    let looping = tokio::spawn({
        let keys = verifier.keys.clone();
        let health = crate::Health::new();
        async move {
            keys.refresh_loop(health.dependency("jwks"), Default::default())
                .await;
        }
    });
    assert_eq!(verifier.verify(&token).await.err(), Some(TokenError::UnknownKey));
    looping.abort();
}

#[tokio::test]
async fn a_services_own_token_names_the_service_and_the_tenant() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await;
    let tokens = ServiceTokens::new("order", Some("facility"), &issuer.settings()).unwrap();
    let token = tokens.bearer(Some("F7")).unwrap();
    assert!(
        Arc::ptr_eq(&token, &tokens.bearer(Some("F7")).unwrap()),
        "signed once while it lasts"
    );
    let identity = verifier.verify(&token).await.unwrap();
    assert_eq!(identity.service.as_deref(), Some("order"));
    assert_eq!(identity.tenant, Some(Tenant::new("F7").unwrap()));
    assert!(identity.roles.is_empty());
    let other = verifier
        .verify(&tokens.bearer(Some("F8")).unwrap())
        .await
        .unwrap();
    assert_eq!(other.tenant, Some(Tenant::new("F8").unwrap()));
}

#[tokio::test]
async fn tenants_are_required_optional_or_not_read() {
    let issuer = Issuer::new();
    let unread = Verifier::new(&issuer.settings(), "order").unwrap();
    unread.keys.refresh().await.unwrap();
    let optional = unread.clone().with_tenants(TenantClaim::Optional("facility"));
    let required = unread.clone().with_tenants(TenantClaim::Required("facility"));
    let tenant = async |verifier: &Verifier, token: &str| {
        let verified = verifier.verify(token).await;
        verified.map(|caller| caller.tenant.as_ref().map(|tenant| tenant.as_str().to_owned()))
    };
    let missing = Err(TokenError::Tenant("facility"));
    assert_eq!(
        TokenError::Tenant("facility").to_string(),
        "the token names no facility"
    );
    let tokens = ServiceTokens::new("order", None, &issuer.settings()).unwrap();
    for token in [tokens.bearer(None).unwrap(), tokens.bearer(Some("F7")).unwrap()] {
        assert_eq!(tenant(&unread, &token).await, Ok(None));
        assert_eq!(tenant(&optional, &token).await, Ok(None));
        assert_eq!(tenant(&required, &token).await, missing);
    }
    let invalid = issuer.token(|claims| claims["facility"] = json!(""));
    assert_eq!(tenant(&unread, &invalid).await, Ok(None));
    assert_eq!(tenant(&optional, &invalid).await, missing);
    assert_eq!(tenant(&required, &invalid).await, missing);
    let named = issuer.token(|_| {});
    for verifier in [&optional, &required] {
        assert_eq!(tenant(verifier, &named).await, Ok(Some("F1".to_owned())));
    }
}

#[tokio::test]
async fn a_completion_changes_the_caller_once_or_rejects_the_token() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer).await.with_completion(|caller| {
        if caller.subject == "mallory" {
            return Err(TokenError::Tenant("facility"));
        }
        caller.roles.push("guest".to_owned());
        caller.extensions.insert(7_u32);
        Ok(())
    });
    let token = issuer.token(|_| {});
    for _first_and_remembered in 0..2 {
        let caller = verifier.verify(&token).await.unwrap();
        assert_eq!(caller.roles, ["clerk", "not-ours", "guest"]);
        assert_eq!(caller.extensions.get::<u32>(), Some(&7));
    }
    let token = issuer.token(|claims| claims["sub"] = json!("mallory"));
    assert_eq!(
        verifier.verify(&token).await.err(),
        Some(TokenError::Tenant("facility"))
    );
}

#[tokio::test]
async fn an_old_flat_key_set_is_rejected_with_a_remedy() {
    let issuer = Issuer::new();
    let path = issuer.folder.path().join("jwks.json");
    let flat = std::fs::read_to_string(&path)
        .unwrap()
        .replace("weft_service", "x");
    std::fs::write(&path, flat).unwrap();
    let verifier = Verifier::new(&issuer.settings(), "order").unwrap();
    let error = crate::status::chain(&verifier.keys.refresh().await.unwrap_err());
    assert!(error.contains(r#"add "weft_service": "order" to it"#), "{error}");
    assert_eq!(
        verifier.verify(&issuer.token(|_| {})).await.err(),
        Some(TokenError::NoKeys)
    );
}
