//! What runs, and how it stops.
