use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::secret::SECRET_BYTES_MIN;
use super::*;
use crate::user::Role;

const SECRET: &str = "a secret of more than thirty-two bytes";
const SFU: &str = "the secret of an API key of the media server";

fn now() -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000)
}

fn config() -> product::Auth {
    product::Auth { jwt_secret: crate::config::Hidden(SECRET.into()), ..product::Auth::default() }
}

fn authenticator(config: &product::Auth) -> Authenticator {
    Authenticator::new(config, &[("APIkey".into(), SFU.into())]).unwrap()
}

fn claims() -> Value {
    json!({ "sub": "u_1", "exp": now().millis() / 1000 + 60 })
}

fn with(claim: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[claim] = value;
    claims
}

fn sign(header: &Header, claims: &Value, secret: &str) -> String {
    jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn token(claims: &Value) -> String {
    sign(&Header::new(Algorithm::HS256), claims, SECRET)
}

async fn verify_with(config: &product::Auth, claims: &Value) -> Result<User, AuthError> {
    authenticator(config).verify(&token(claims), now()).await
}

async fn verify(claims: &Value) -> Result<User, AuthError> {
    verify_with(&config(), claims).await
}

/// Seconds from now.
fn at(seconds: i64) -> Value {
    json!(now().millis() / 1000 + seconds)
}

#[tokio::test]
async fn a_token_says_who_calls() {
    let mut claims = claims();
    claims["name"] = json!(" Ana\u{7} ");
    claims["picture"] = json!("https://a.example/p.png");
    claims["role"] = json!("admin");

    let user = verify(&claims).await.unwrap();

    assert_eq!(user.id.as_str(), "u_1");
    assert_eq!(user.role, Role::Admin);
    assert_eq!(user.name.as_deref(), Some("Ana"));
    assert_eq!(user.picture.as_deref(), Some("https://a.example/p.png"));
    assert_eq!(user.expires_at, now().plus(std::time::Duration::from_secs(60)));
}

#[tokio::test]
async fn subject_and_expiry_are_needed() {
    for (claims, reason) in [
        (json!({ "exp": at(60) }), Reason::User),
        (json!({ "sub": "u_1" }), Reason::Times),
        (with("sub", json!("")), Reason::User),
        (with("sub", json!("x".repeat(129))), Reason::User),
        (with("sub", json!(7)), Reason::User),
        (with("exp", json!("tomorrow")), Reason::Times),
        (with("exp", Value::Null), Reason::Times),
    ] {
        assert_eq!(verify(&claims).await, Err(reason.into()), "{claims}");
    }
    assert!(verify(&with("sub", json!("x".repeat(128)))).await.is_ok());
}

#[tokio::test]
async fn times_have_thirty_seconds_of_leeway() {
    assert!(verify(&with("exp", at(-29))).await.is_ok());
    assert_eq!(verify(&with("exp", at(-30))).await, Err(AuthError::Expired));
    for claim in ["iat", "nbf"] {
        assert!(verify(&with(claim, at(30))).await.is_ok());
        assert_eq!(verify(&with(claim, at(31))).await, Err(Reason::NotYetValid.into()));
    }
}

#[tokio::test]
async fn issuer_and_audience_are_checked_when_configured() {
    let config = product::Auth { issuer: "https://id.example".into(), audience: "live".into(), ..config() };
    let mut claims = claims();
    claims["iss"] = json!("https://id.example");

    assert_eq!(verify_with(&config, &claims).await, Err(Reason::Audience.into()));
    claims["aud"] = json!("other");
    assert_eq!(verify_with(&config, &claims).await, Err(Reason::Audience.into()));
    claims["aud"] = json!(["other", "live"]);
    assert!(verify_with(&config, &claims).await.is_ok());
    claims["iss"] = json!("https://evil.example");
    assert_eq!(verify_with(&config, &claims).await, Err(Reason::Issuer.into()));
    claims.as_object_mut().unwrap().remove("iss");
    assert_eq!(verify_with(&config, &claims).await, Err(Reason::Issuer.into()));
}

/// Identity services of apps that are older than OpenID name the user in many ways.
#[tokio::test]
async fn the_users_id_may_stand_anywhere_and_be_a_number() {
    let id = async |path: &str, claims: Value| {
        let config = product::Auth { user_claim: path.into(), ..config() };
        verify_with(&config, &claims).await.map(|user| user.id.to_string())
    };

    assert_eq!(id("sub", claims()).await.as_deref(), Ok("u_1"));
    assert_eq!(id("userId", with("userId", json!("a"))).await.as_deref(), Ok("a"));
    assert_eq!(id("id", with("id", json!(4711))).await.as_deref(), Ok("4711"));
    assert_eq!(id("id", with("id", json!(7.5))).await, Err(Reason::User.into()));
    let hex = "65f0c0ffee65f0c0ffee65f0";
    assert_eq!(id("_id", with("_id", json!(hex))).await.as_deref(), Ok(hex));
    assert_eq!(id("user._id", with("user", json!({ "_id": hex }))).await.as_deref(), Ok(hex));
    // Never another one than the configured: who may choose the claim may choose the user.
    assert_eq!(id("userId", claims()).await, Err(Reason::User.into()));
}

#[tokio::test]
async fn tokens_for_trying_hold_the_id_where_it_is_looked_for() {
    let config = product::Auth { user_claim: "userId".into(), ..config() };
    let signed = DevTokens::new(&config).sign(&"u_2".parse().unwrap(), Role::User, None, now());

    assert_eq!(authenticator(&config).verify(&signed.token, now()).await.unwrap().id.as_str(), "u_2");
}

#[tokio::test]
async fn the_role_may_stand_anywhere_and_in_a_list() {
    let role = async |path: &str, claims: Value| {
        let config = product::Auth { role_claim: path.into(), ..config() };
        verify_with(&config, &claims).await.unwrap().role
    };

    assert_eq!(role("role", claims()).await, Role::User);
    assert_eq!(role("role", with("role", json!("owner"))).await, Role::User);
    assert_eq!(role("role", with("role", json!(["user", "admin"]))).await, Role::Admin);
    assert_eq!(role("realm.roles", with("realm", json!({ "roles": ["admin"] }))).await, Role::Admin);
    assert_eq!(role("https://a.example/role", with("https://a.example/role", json!("admin"))).await, Role::Admin);
    assert_eq!(role("realm.roles", with("realm", json!("admin"))).await, Role::User);
}

#[tokio::test]
async fn a_name_is_cut_and_a_picture_must_be_https() {
    let user = verify(&with("name", json!("x".repeat(100)))).await.unwrap();
    assert_eq!(user.name.map(|name| name.len()), Some(64));

    for picture in ["http://a.example/p.png", "javascript:alert(1)", "p.png"] {
        assert_eq!(verify(&with("picture", json!(picture))).await.unwrap().picture, None);
    }
}

#[tokio::test]
async fn a_media_token_is_no_user_token() {
    assert_eq!(verify(&with("video", json!({ "room": "r" }))).await, Err(Reason::MediaToken.into()));
    assert_eq!(verify(&with("iss", json!("APIkey"))).await, Err(Reason::MediaToken.into()));
    let signed_by_the_media_server = sign(&Header::new(Algorithm::HS256), &claims(), SFU);
    let refused = authenticator(&config()).verify(&signed_by_the_media_server, now()).await;
    assert_eq!(refused, Err(Reason::Signature.into()));
}

#[tokio::test]
async fn the_algorithm_is_not_the_tokens_choice() {
    let authenticator = authenticator(&config());
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = sign(&Header::new(algorithm), &claims(), SECRET);
        assert_eq!(authenticator.verify(&token, now()).await, Err(Reason::Key.into()), "{algorithm:?}");
    }
    let body = token(&claims()).split('.').nth(1).unwrap().to_owned();
    // {"alg":"none"} and {"alg":"RS256"}
    for head in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJSUzI1NiJ9"] {
        for signature in ["", "AAAA"] {
            let token = format!("{head}.{body}.{signature}");
            assert_eq!(authenticator.verify(&token, now()).await, Err(Reason::Key.into()), "{token}");
        }
    }
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let authenticator = authenticator(&config());
    let long = "a".repeat(100_000);
    for text in ["", ".", "..", "a.b.c", "\u{0}", "ey.ey.ey", long.as_str()] {
        let refused = authenticator.verify(text, now()).await;
        assert!(matches!(refused, Err(AuthError::Unauthenticated(Reason::Malformed | Reason::Key))), "{refused:?}");
    }
}

#[tokio::test]
async fn an_administrator_who_called_is_known() {
    let authenticator = authenticator(&config());
    let user = "u_1".parse().unwrap();

    assert!(!authenticator.is_known_admin(&user));
    authenticator.verify(&token(&claims()), now()).await.unwrap();
    assert!(!authenticator.is_known_admin(&user));
    authenticator.verify(&token(&with("role", json!("admin"))), now()).await.unwrap();
    assert!(authenticator.is_known_admin(&user));
}

#[test]
fn a_short_secret_or_one_of_the_media_server_is_refused() {
    let with = |secret: &str| product::Auth { jwt_secret: crate::config::Hidden(secret.into()), ..config() };
    let refused = |secret: &str| Authenticator::new(&with(secret), &[("APIkey".into(), SFU.into())]).err();

    assert_eq!(refused("short"), Some(AuthConfigError::ShortSecret(5)));
    assert_eq!(refused(&"x".repeat(31)), Some(AuthConfigError::ShortSecret(31)));
    assert_eq!(refused(&"x".repeat(32)), None);
    assert_eq!(refused(SFU), Some(AuthConfigError::SharedSecret("APIkey".into())));
    assert_eq!(refused(SECRET), None);
}

#[tokio::test]
async fn a_token_for_development_is_taken_by_any_configuration() {
    let config = product::Auth {
        issuer: "https://id.example".into(),
        audience: "live".into(),
        role_claim: "app.role".into(),
        ..config()
    };
    let signed = DevTokens::new(&config).sign(&"dev".parse().unwrap(), Role::Admin, Some("Dev"), now());

    let user = authenticator(&config).verify(&signed.token, now()).await.unwrap();

    assert_eq!((user.id.as_str(), user.role, user.name.as_deref()), ("dev", Role::Admin, Some("Dev")));
    assert_eq!(user.expires_at, signed.expires_at);
    assert_eq!(signed.expires_at, now().plus(std::time::Duration::from_secs(3600)));
}

#[test]
fn a_random_secret_is_long_enough_and_never_the_same() {
    assert!(random_secret().len() >= SECRET_BYTES_MIN);
    assert_ne!(random_secret(), random_secret());
}

#[tokio::test]
async fn a_header_that_demands_an_extension_is_refused() {
    for crit in [vec![], vec!["exp".to_owned()], vec!["urn:example:unknown".to_owned()]] {
        let header = Header { crit: Some(crit), ..Header::new(Algorithm::HS256) };
        let token = sign(&header, &claims(), SECRET);
        assert_eq!(authenticator(&config()).verify(&token, now()).await, Err(Reason::Extension.into()));
    }
}
