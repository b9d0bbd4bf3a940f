//! The product, and the binary: arguments, configuration, what runs and how it stops.

#![warn(clippy::wildcard_enum_match_arm)]

pub mod access;
mod agenda;
pub mod analytics;
pub mod app;
pub mod auth;
pub mod chat;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
mod descriptors;
mod event_log;
pub mod heap;
pub mod http;
pub mod lifecycle;
mod logging;
pub mod metrics;
pub mod migrate;
pub mod moderation;
pub mod outbound;
mod places;
pub mod problem;
pub mod product;
pub mod reconcile;
pub mod rooms;
pub mod serve;
pub mod services;
mod signals;
pub mod store;
pub mod store_watch;
pub mod stream_cache;
pub mod streams;
pub mod text;
pub mod user;
pub mod viewers;
pub mod webhook_sender;
pub mod webhooks;
