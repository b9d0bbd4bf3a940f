//! Simulated publishers and subscribers.
