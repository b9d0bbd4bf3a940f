//! The product as its environment sets it up: the description's variables, the feature flag, development or not.

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use reqwest::Method;
use serde_json::{Value, json};

use crate::kept::Kept;
use crate::media_server::MediaServer;
use crate::product::{API_KEY, API_SECRET, JWT_SECRET, Ports, Product, admin, token};
use crate::socket::Socket;

async fn started(product: Product) -> Product {
    let mut product = product;
    product.start_again().await;
    product
}

/// [S] The variables that the description names.
#[tokio::test]
async fn the_descriptions_variables_set_the_product_up() {
    let media = MediaServer::start().await;
    let url = media.config()["url"].as_str().expect("it is text").to_owned();
    let environment = [
        ("LIVEKIT_URL", url.as_str()),
        ("LIVEKIT_API_KEY", "APIenvironment"),
        ("LIVEKIT_API_SECRET", "a-secret-of-the-environment-0123456789"),
        ("FEATURE_GO_LIVE", "true"),
    ];
    let product = Product::prepared(Ports::free(), "environment", json!({ "sfu": { "mode": "external" } }));
    let product = started(product.with(&environment)).await;
    let live = product.go_live("ana").await;

    assert_eq!(live["url"], json!(url.replacen("http", "ws", 1)));
    assert!(media.has_room(live["roomName"].as_str().expect("it is told")));
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_issuer(&["APIenvironment"]);
    let key = DecodingKey::from_secret(environment[2].1.as_bytes());
    let claims = jsonwebtoken::decode::<Value>(live["token"].as_str().expect("it is told"), &key, &validation);
    assert_eq!(claims.expect("the variables sign it").claims["sub"], "ana");
}

on_every_store! {
    the_feature_switched_off_hides_streams_and_lets_running_ones_end
}

/// [S] Off, the feature is gone for apps; [C] what runs can be ended.
async fn the_feature_switched_off_hides_streams_and_lets_running_ones_end(kept: Kept) {
    let media = MediaServer::start().await;
    let product = kept.product("feature", json!({ "sfu": media.config() })).await;
    let ids = [product.go_live("ana").await, product.go_live("bob").await, product.go_live("cora").await];
    let text = |number: usize, name: &str| ids[number][name].as_str().expect("it is told").to_owned();
    let owner = media.owner_arrives(&product, &text(0, "roomName"), "ana").await;
    let mut product = product.with(&[("FEATURE_GO_LIVE", "false")]);
    product.kill();
    product.start_again().await;

    let watch = format!("/live/{}/watch", text(0, "streamId"));
    product.get("/live/active", None).await.refused(404, "feature_disabled");
    product.get(&watch, Some(&token("vera"))).await.refused(404, "feature_disabled");
    product.post("/live/start", &token("dora"), json!({})).await.refused(404, "feature_disabled");
    let connected = Socket::connect(&product, &text(0, "roomName"), json!({ "token": token("vera") })).await;
    assert_eq!(connected.err().as_deref(), Some("feature_disabled"));
    assert_eq!(product.get("/config", None).await.expect(200)["features"]["goLive"], false);

    product.post("/live/stop", &token("ana"), json!({ "streamId": text(0, "streamId") })).await.expect(200);
    let end = format!("/live/{}/end", text(1, "streamId"));
    product.post(&end, &admin("root"), json!({})).await.expect(200);
    assert_eq!(crate::media_server::deliver(&product, &media.leave(&text(0, "roomName"), owner)).await, 200);
    assert_eq!(crate::media_server::deliver(&product, &media.close(&text(2, "roomName"))).await, 200);
    let all = product.get("/admin/streams", Some(&admin("root"))).await.expect(200);
    let live = all["streams"].as_array().expect("it is a list").iter().filter(|one| one["isLive"] == json!(true));
    assert_eq!(live.count(), 0, "{all}");
}

/// [C] Development's conveniences, and their absence in production.
#[tokio::test]
async fn development_tokens_and_anonymous_writing_are_for_development() {
    let development = Product::start("development", json!({})).await;
    let made = development.call(Method::POST, "/dev/token", None, Some(json!({ "userId": "ana" }))).await.expect(200);
    let started = development.post("/live/start", made["token"].as_str().expect("it is told"), json!({})).await;
    assert_eq!(started.status, 201);
    assert!(made["expiresAt"].is_string());
    let room = started.body["roomName"].as_str().expect("it is told").to_owned();
    let guest = Socket::connect(&development, &room, Value::Null).await.expect("guests may write");
    assert_eq!(guest.ask("chat:message", json!({ "text": "hello" })).await.expect("it is answered")["ok"], true);

    let production = started_in_production("production").await;
    let refused = production.call(Method::POST, "/dev/token", None, Some(json!({ "userId": "ana" }))).await;
    refused.refused(404, "not_found");
    assert_eq!(production.get("/config", None).await.expect(200)["features"]["goLive"], true, "nothing says no");
    let room = production.go_live("ana").await["roomName"].as_str().expect("it is told").to_owned();
    let guest = Socket::connect(&production, &room, Value::Null).await.expect("guests may read");
    let refused = guest.ask("chat:message", json!({ "text": "hello" })).await.expect("it is answered");
    assert_eq!((&refused["ok"], &refused["error"]["code"]), (&json!(false), &json!("unauthenticated")));
}

async fn started_in_production(name: &str) -> Product {
    started(Product::prepared(Ports::free(), name, json!({})).in_production()).await
}

/// [C] Settings that would open the house are mistakes.
#[tokio::test]
async fn dangerous_settings_are_refused_with_a_word_what_to_do() {
    let production = |name: &str, config: Value| {
        let product = Product::prepared(Ports::free(), name, json!({})).in_production();
        product.and(config)
    };
    let refused = production("guest-write", json!({ "chat": { "guest": "write" } })).refusal().await;
    assert!(refused.contains("chat.guest"), "{refused}");
    let refused = production("any-origin", json!({ "http": { "cors_origins": ["*"] } })).refusal().await;
    assert!(refused.contains("cors_origins"), "{refused}");
    let refused = production("one-secret", json!({ "keys": { API_KEY: JWT_SECRET } })).refusal().await;
    assert!(refused.contains("JWT_SECRET") && !refused.contains(JWT_SECRET), "{refused}");
    let short = [("JWT_SECRET", "short")];
    let refused = production("short-secret", json!({})).with(&short).refusal().await;
    assert!(refused.contains("JWT_SECRET"), "{refused}");
    assert!(!refused.contains(API_SECRET));
    let unclear = [("FEATURE_GO_LIVE", "flase")];
    let refused = production("unclear-flag", json!({})).with(&unclear).refusal().await;
    assert!(refused.contains("FEATURE_GO_LIVE") && refused.contains("true or false"), "{refused}");
}

/// [C] Two processes would empty each other's queue of messages that wait for the store.
#[tokio::test]
async fn a_directory_belongs_to_one_process() {
    let mut first = Product::start("claimed", json!({})).await;
    let shared = json!({ "store": { "path": first.data() } });
    let refused = Product::prepared(Ports::free(), "claiming", shared.clone()).refusal().await;
    assert!(refused.contains("store.path"), "{refused}");

    first.go_live("ana").await;
    first.kill();
    let next = started(Product::prepared(Ports::free(), "claiming-again", shared)).await;
    let listed = next.get("/live/active", None).await.expect(200);
    assert_eq!(listed["streams"][0]["ownerId"], "ana", "a kill leaves nothing behind that keeps the next one out");
}
