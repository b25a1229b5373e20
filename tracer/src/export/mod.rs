//! The way out: what users see over HTTP.
//!
//! Owns the names, types and labels of every metric ([`metrics`]), the rows of one scrape
//! ([`rows`]), their text ([`value`], [`encode`]), the HTTP server ([`http`]) and the generated
//! page about it all ([`mod@reference`]). Knows nothing of maps, namespaces or /proc: the collector
//! hands it numbers with label values. Only this module names the crates `prometheus` and `axum`.

pub mod agent_rows;
pub mod collector;
pub mod encode;
pub mod http;
mod listener_rows;
pub mod metrics;
pub mod namespace_rows;
pub mod node_rows;
pub mod open_file_rows;
mod other_rows;
pub mod own;
pub mod port_rows;
pub mod reference;
mod reset_rows;
pub mod rows;
pub mod socket_rows;
pub mod status;
mod timeout_rows;
pub mod value;
pub mod zeros;
