//! The snippets of the product's description in real clients, with the product's own rooms and with those of another
//! server that tells by webhooks.

use serde_json::{Value, json};

use crate::kept::Kept;
use crate::media_server;
use crate::product::{API_KEY, API_SECRET, JWT_SECRET, Ports, Product};
use crate::script::Script;

on_every_store! {
    pages_use_the_product_as_its_description_shows_with_its_own_rooms
    pages_use_the_product_as_its_description_shows_with_rooms_elsewhere
    phones_publish_lose_their_connection_and_come_back_with_the_products_own_rooms
    phones_publish_lose_their_connection_and_come_back_with_rooms_elsewhere
    publishers_and_viewers_come_back_when_the_product_is_restarted_in_order
    a_token_says_what_its_holder_may_do
}

/// A product, and the other server if its rooms are there.
struct World {
    product: Product,
    rooms: Option<Product>,
}

impl World {
    async fn builtin(kept: Kept, name: &str) -> Self {
        Self { product: kept.product(name, json!({})).await, rooms: None }
    }

    async fn external(kept: Kept, name: &str) -> Self {
        let ports = Ports::free();
        let hook = format!("{}/api/webhooks/livekit", ports.url());
        let config = json!({ "sfu": { "mode": "only" }, "webhook": { "api_key": API_KEY, "urls": [hook] } });
        let rooms = Product::start(&format!("{name}-rooms-{kept:?}"), config).await;
        let sfu = json!({
            "mode": "external", "url": rooms.ports.url(), "api_key": API_KEY, "api_secret": API_SECRET,
        });
        let mut product = kept.prepared(ports, name, json!({ "sfu": sfu })).await;
        product.start_again().await;
        Self { product, rooms: Some(rooms) }
    }

    fn passes(&mut self, script: Script) {
        let script = script.with("PRODUCT_URL", &self.product.ports.url()).with("PRODUCT_JWT_SECRET", JWT_SECRET);
        script.passes_on(&mut self.product);
    }
}

async fn pages_use_the_product_as_its_description_shows_with_its_own_rooms(kept: Kept) {
    World::builtin(kept, "page-builtin").await.passes(Script::node("product_usage.mjs", &["builtin"]));
}

async fn pages_use_the_product_as_its_description_shows_with_rooms_elsewhere(kept: Kept) {
    World::external(kept, "page-external").await.passes(Script::node("product_usage.mjs", &["external"]));
}

async fn phones_publish_lose_their_connection_and_come_back_with_the_products_own_rooms(kept: Kept) {
    World::builtin(kept, "phone-builtin").await.passes(Script::python("product_publish.py", &[]));
}

async fn phones_publish_lose_their_connection_and_come_back_with_rooms_elsewhere(kept: Kept) {
    World::external(kept, "phone-external").await.passes(Script::python("product_publish.py", &[]));
}

async fn publishers_and_viewers_come_back_when_the_product_is_restarted_in_order(kept: Kept) {
    World::builtin(kept, "restart-builtin")
        .await
        .passes(Script::node("product_restart.mjs", &["terminate", "builtin"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_and_viewers_come_back_when_the_media_server_elsewhere_is_restarted_in_order() {
    let World { product, rooms } = World::external(Kept::Embedded, "restart-external").await;
    let mut rooms = rooms.expect("they are elsewhere");
    let script = Script::node("product_restart.mjs", &["terminate", "external"]);
    let script = script.with("PRODUCT_URL", &product.ports.url()).with("PRODUCT_JWT_SECRET", JWT_SECRET);
    script.passes_on(&mut rooms);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_with_livekits_sdk_receives_the_webhooks_of_this_server() {
    let backend = Ports::free();
    let hook = format!("{}/hook", backend.url());
    let config = json!({ "sfu": { "mode": "only" }, "webhook": { "api_key": API_KEY, "urls": [hook] } });
    let mut server = Product::start("webhooks", config).await;
    let script = Script::node("product_webhooks.mjs", &[])
        .with("WEBHOOK_PORT", &backend.http.to_string())
        .with("LIVEKIT_URL", &server.ports.url().replace("http", "ws"))
        .with("LIVEKIT_API_KEY", API_KEY)
        .with("LIVEKIT_API_SECRET", API_SECRET);
    script.passes_on(&mut server);
}

async fn a_token_says_what_its_holder_may_do(kept: Kept) {
    let media = media_server::MediaServer::start().await;
    let product = kept.product("grants", json!({ "sfu": media.config() })).await;
    let started = product.go_live("ana").await;
    let id = started["streamId"].as_str().expect("it is told");
    let watching = product.get(&format!("/live/{id}/watch"), Some(&crate::product::token("bob"))).await.expect(200);

    let (publisher, viewer) = (claims(&started), claims(&watching));
    assert_eq!(publisher["sub"], "ana");
    assert_eq!(publisher["iss"], API_KEY);
    for (claims, may_publish) in [(&publisher, true), (&viewer, false)] {
        let video = &claims["video"];
        assert_eq!(video["room"], started["roomName"]);
        assert_eq!((&video["roomJoin"], &video["canSubscribe"]), (&json!(true), &json!(true)));
        assert_eq!((&video["canPublish"], &video["canPublishData"]), (&json!(may_publish), &json!(true)));
        assert!(video["roomAdmin"].is_null() && video["roomCreate"].is_null() && video["hidden"].is_null(), "{video}");
    }
    assert!(viewer["sub"].as_str().is_some_and(|sub| sub.starts_with("bob:") && sub.len() == 12), "{viewer}");
    assert_eq!(viewer["attributes"], json!({ "app.userId": "bob", "app.role": "viewer" }));
    let url = started["url"].as_str().expect("it is told");
    assert!(url.starts_with("ws://127.0.0.1:"), "{url}");
}

/// What a token of an answer says, its signature checked.
fn claims(answer: &Value) -> Value {
    let token = answer["token"].as_str().expect("it is told");
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    validation.set_required_spec_claims(&["exp"]);
    let key = jsonwebtoken::DecodingKey::from_secret(API_SECRET.as_bytes());
    jsonwebtoken::decode(token, &key, &validation).expect("our media server accepts it").claims
}
