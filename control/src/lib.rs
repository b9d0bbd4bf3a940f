//! The product, and the binary: arguments, configuration, what runs and how it stops.

pub mod analytics;
pub mod app;
pub mod auth;
pub mod chat;
pub mod cli;
pub mod clock;
pub mod config;
pub mod http;
pub mod live;
pub mod metrics;
pub mod migrate;
pub mod moderation;
pub mod problem;
pub mod product;
pub mod reconcile;
pub mod rooms;
pub mod serve;
pub mod store;
pub mod store_watch;
pub mod streams;
pub mod text;
pub mod user;
pub mod viewers;
pub mod webhook_sender;
pub mod webhooks;
