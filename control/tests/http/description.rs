//! The description of the API, and its page.

use std::collections::BTreeSet;

use serde_json::Value;

use super::world::World;
use control::problem::Code;
use control::store::SharedStore;

async fn description(world: &World) -> Value {
    world.get("/openapi.json", "").await.expect(200)
}

/// Each route of the contract is described, with its refusals.
pub async fn every_route_is_described(store: SharedStore) {
    let world = World::with(store, |settings| settings.development = true).await;
    let description = description(&world).await;
    assert_eq!(description["openapi"], "3.1.0");

    for (method, path) in [
        ("post", "/api/live/start"),
        ("post", "/api/live/stop"),
        ("get", "/api/live/active"),
        ("get", "/api/live/{id}/watch"),
        ("post", "/api/live/{id}/end"),
        ("post", "/api/webhooks/livekit"),
        ("get", "/api/live/{id}"),
        ("get", "/api/live/mine"),
        ("patch", "/api/live/{id}"),
        ("get", "/api/live/{id}/blocks"),
        ("put", "/api/live/{id}/blocks/{userId}"),
        ("delete", "/api/live/{id}/blocks/{userId}"),
        ("put", "/api/me/blocks/{userId}"),
        ("delete", "/api/me/blocks/{userId}"),
        ("get", "/api/me/blocks"),
        ("post", "/api/live/{id}/reports"),
        ("get", "/api/admin/reports"),
        ("patch", "/api/admin/reports/{reportId}"),
        ("get", "/api/live/{id}/analytics"),
        ("post", "/api/live/scheduled"),
        ("get", "/api/live/scheduled"),
        ("delete", "/api/live/{id}"),
        ("put", "/api/admin/users/{userId}/ban"),
        ("delete", "/api/admin/users/{userId}/ban"),
        ("get", "/api/admin/streams"),
        ("get", "/api/admin/audit"),
        ("get", "/api/config"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("post", "/api/dev/token"),
    ] {
        let operation = &description["paths"][path][method];
        assert!(operation["operationId"].is_string(), "{method} {path}");
        if path.starts_with("/api/") {
            assert!(operation["responses"]["503"].is_object(), "{method} {path}");
        }
    }
}

/// Section 1, rule 1: but for what tells of the server itself.
pub async fn all_paths_begin_with_api(store: SharedStore) {
    let world = World::with(store, |settings| settings.development = true).await;
    let description = description(&world).await;

    let paths = description["paths"].as_object().unwrap().keys();
    let others: Vec<_> = paths.filter(|path| !path.starts_with("/api/")).collect();
    assert_eq!(others, ["/healthz", "/readyz"]);
}

/// Everything that is referred to is there, operations have names of their own, and codes exist.
pub async fn the_description_is_whole(store: SharedStore) {
    let world = World::with(store, |settings| settings.development = true).await;
    let description = description(&world).await;

    let mut references = Vec::new();
    collect(&description, &mut references);
    for reference in references {
        let found = description.pointer(reference.trim_start_matches('#'));
        assert!(found.is_some(), "{reference}");
    }
    let mut names = BTreeSet::new();
    for operation in description["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap()) {
        let name = operation.1["operationId"].as_str().unwrap().to_owned();
        assert!(names.insert(name.clone()), "{name} twice");
    }
    let text = description.to_string();
    assert!(Code::ALL.iter().filter(|code| text.contains(code.name())).count() > 25);
}

fn collect<'a>(value: &'a Value, references: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            references.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|field| collect(field, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The page needs nothing from elsewhere.
pub async fn the_page_needs_nothing_from_elsewhere(store: SharedStore) {
    let world = World::new(store).await;

    assert_eq!(world.get("/docs", "").await.header("location"), Some("/docs/"));
    let page = world.get("/docs/", "").await;
    assert_eq!(page.status, 200);
    assert!(!page.text.contains("http:") && !page.text.contains("https:"), "{}", page.text);
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    for file in ["start.js", "swagger-ui-bundle.js", "swagger-ui.css"] {
        assert!(page.text.contains(file));
        let response = reqwest::get(world.url(&format!("/docs/{file}"))).await.unwrap();
        assert_eq!(response.status(), 200, "{file}");
        assert!(response.bytes().await.unwrap().len() > 50, "{file}");
    }
}
