use serde_json::json;

use super::*;

const ALL: [Algorithm; 4] = [
    Algorithm::EdDSA,
    Algorithm::ES256,
    Algorithm::RS256,
    Algorithm::PS256,
];
/// The keys of RFC 8037, appendix A.2, RFC 7517, appendix A.1 (EC) and RFC 7638, section 3.1 (RSA).
const ED: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const EC: (&str, &str) = (
    "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
);
const RSA: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";

fn read(keys: impl serde::Serialize) -> Result<Vec<Key>, Error> {
    parse(
        json!({ "keys": serde_json::to_value(keys).unwrap() })
            .to_string()
            .as_bytes(),
        &ALL,
        false,
    )
}

fn set(keys: impl serde::Serialize) -> Result<KeySet, Error> {
    KeySet::new(read(keys)?.into_iter().map(Arc::new), None)
}

fn ed(more: Value) -> Value {
    let mut key = json!({"kty": "OKP", "crv": "Ed25519", "x": ED});
    let Value::Object(more) = more else {
        panic!("an object")
    };
    key.as_object_mut().unwrap().extend(more);
    key
}

#[test]
fn a_key_is_found_by_its_rfc_8037_thumbprint() {
    let thumbprint = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
    assert_eq!(key_id(&URL_SAFE_NO_PAD.decode(ED).unwrap()), thumbprint);
    let set = set(json!([ed(json!({"kid": "k1"}))])).unwrap();
    for name in ["k1", thumbprint] {
        assert!(matches!(set.find(name, Algorithm::EdDSA), Some(Ok(_))), "{name}");
    }
}

#[test]
fn each_key_verifies_one_algorithm_which_its_kind_or_its_alg_says() {
    let rsa = |alg: Value| json!({"kty": "RSA", "kid": "k", "n": RSA, "e": "AQAB", "alg": alg});
    let ec = json!({"kty": "EC", "crv": "P-256", "kid": "k", "x": EC.0, "y": EC.1});
    for (jwk, algorithm) in [
        (
            ed(json!({"kid": "k", "alg": "EdDSA", "use": "sig"})),
            Algorithm::EdDSA,
        ),
        (
            ed(json!({"kid": "k", "alg": "Ed25519", "key_ops": ["verify"]})),
            Algorithm::EdDSA,
        ),
        (ec, Algorithm::ES256),
        (rsa(Value::Null), Algorithm::RS256),
        (rsa(json!("PS256")), Algorithm::PS256),
    ] {
        let set = set(json!([jwk])).unwrap();
        for other in ALL {
            let found = set.find("k", other).unwrap();
            assert_eq!(found.is_ok(), other == algorithm, "{jwk} {other:?}");
        }
    }
}

#[test]
fn keys_of_other_kinds_are_skipped_and_a_set_without_a_usable_one_says_why() {
    let odd = json!([
        {"kty": "RSA", "kid": "enc", "n": RSA, "e": "AQAB", "use": "enc"},
        {"kty": "RSA", "kid": "short", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA", "kid": "sha512", "n": RSA, "e": "AQAB", "alg": "RS512"},
        {"kty": "AKP", "kid": "later", "alg": "ML-DSA-44"},
        {"kty": "EC", "kid": "half", "crv": "P-256", "x": EC.0},
    ]);
    let Err(Error::Empty(reasons)) = read(odd.clone()) else {
        panic!("there is no usable key")
    };
    for kid in ["enc", "short", "sha512", "later", "half"] {
        assert!(reasons.contains(kid), "{kid} in {reasons}");
    }
    let mut with_good = odd.as_array().unwrap().clone();
    with_good.push(ed(json!({})));
    assert_eq!(read(Value::Array(with_good)).unwrap().len(), 1);
}

#[test]
fn a_document_that_is_no_public_key_set_is_refused() {
    let format = |bytes: &[u8]| matches!(parse(bytes, &ALL, false), Err(Error::Format(_)));
    assert!(format(b"<html>") && format(b"[]") && format(br#"{"keys": 3}"#));
    let private = ed(json!({"d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}));
    for secret in [private, json!({"kty": "oct", "k": "c2VjcmV0"})] {
        let fault = read(json!([secret])).unwrap_err();
        assert!(matches!(fault, Error::Private(_)), "{fault}");
        assert!(!fault.to_string().contains("c2VjcmV0"));
    }
    let many: Vec<_> = (0..=MAX_KEYS).map(|_| ed(json!({}))).collect();
    assert_eq!(
        read(Value::Array(many)).unwrap_err(),
        Error::TooMany(MAX_KEYS + 1)
    );
}

#[test]
fn a_key_has_one_owner() {
    let services = set(json!([ed(json!({"kid": "k", "weft_service": "order"}))])).unwrap();
    let key = services.find("k", Algorithm::EdDSA).unwrap().unwrap();
    assert_eq!(key.owner, Owner::Service("order".into()));

    let twice = json!([
        ed(json!({"kid": "a"})),
        ed(json!({"kid": "b", "weft_service": "order"}))
    ]);
    assert!(matches!(set(twice), Err(Error::Owners { .. })));
    let shared_name = json!([
        ed(json!({"kid": "a", "weft_service": "order"})),
        {"kty": "EC", "crv": "P-256", "kid": "a", "x": EC.0, "y": EC.1},
    ]);
    assert!(matches!(set(shared_name), Err(Error::Owners { .. })));
    for name in [json!(""), json!("Order"), json!(7), json!("a b")] {
        let fault = read(json!([ed(json!({"weft_service": name}))])).unwrap_err();
        assert!(matches!(fault, Error::ServiceName { .. }), "{fault}");
    }
}

#[test]
fn services_sign_with_eddsa_alone_and_their_file_holds_no_other_keys() {
    let ec = json!({"kty": "EC", "crv": "P-256", "x": EC.0, "y": EC.1, "weft_service": "order"});
    assert!(matches!(read(json!([ec])), Err(Error::Empty(_))));
    let unmarked = json!({"keys": [ed(json!({}))]}).to_string();
    let fault = parse(unmarked.as_bytes(), &ALL, true).unwrap_err();
    assert!(matches!(fault, Error::NoService { .. }), "{fault}");
}

#[test]
fn a_services_own_key_that_is_not_marked_is_rejected_with_a_remedy() {
    let own = key_id(&URL_SAFE_NO_PAD.decode(ED).unwrap());
    let of = |jwk: Value| {
        let keys = read(json!([jwk])).unwrap().into_iter().map(Arc::new);
        KeySet::new(keys, Some((&own, "order"))).map(|_| ())
    };
    let fault = of(ed(json!({"kid": "flat"}))).unwrap_err().to_string();
    assert!(
        fault.contains(r#""weft_service": "order""#) && fault.contains("flat"),
        "{fault}"
    );
    assert_eq!(of(ed(json!({"weft_service": "order"}))), Ok(()));
}
