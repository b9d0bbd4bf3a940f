//! The product seen from outside: the built binary, real clients, real stores, and what goes wrong in between.
//!
//! Nothing here looks inside the running server. `RULES.md` says which test holds which rule of the API's contract.
//! A rule that a store could break is a function of where the product keeps its data, and tested with each.

/// Makes a test of each rule with each kind of store.
macro_rules! on_every_store {
    ($($rule:ident)*) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $rule() {
                    super::$rule(crate::kept::Kept::Embedded).await;
                }
            )*
        }

        mod mongodb {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $rule() {
                    super::$rule(crate::kept::Kept::Mongodb).await;
                }
            )*
        }
    };
}

#[path = "product/abuse.rs"]
mod abuse;
#[path = "support/application.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod application;
#[path = "support/binary.rs"]
mod binary;
#[path = "product/counting.rs"]
mod counting;
#[path = "product/document.rs"]
mod document;
#[path = "product/grafana.rs"]
mod grafana;
#[path = "product/kept.rs"]
mod kept;
#[path = "product/logs.rs"]
mod logs;
#[path = "product/media_outage.rs"]
mod media_outage;
#[path = "product/media_server.rs"]
mod media_server;
#[path = "support/mongo.rs"]
mod mongo;
#[path = "product/nodes.rs"]
mod nodes;
#[path = "product/outage.rs"]
mod outage;
#[path = "support/ports.rs"]
mod ports;
#[path = "support/product.rs"]
mod product;
#[path = "product/readme.rs"]
mod readme;
#[path = "product/rules.rs"]
mod rules;
#[path = "support/script.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod script;
#[path = "support/server.rs"]
mod server;
#[path = "product/settings.rs"]
mod settings;
#[path = "product/shared_database.rs"]
mod shared_database;
#[path = "product/socket.rs"]
mod socket;
#[path = "product/stopping.rs"]
mod stopping;
#[path = "product/usage.rs"]
mod usage;
