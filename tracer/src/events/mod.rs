//! Events as users see them: what `tracer events` and `tracer replay` do with each record of the ring.
//!
//! decode → [`names`] (whose it is) → [`filter`] → [`text`] or [`json`], counted by [`summary`]; [`stream`] joins
//! them, [`recording`] is the same records as a file. All of it is handed its input: no file is opened here, no
//! clock read, and nothing is logged, so that a replay does exactly what the live view did. Where names come from
//! on a live node is `agent::origins`' business.

pub mod attendance;
pub mod clock;
pub mod filter;
pub mod json;
pub mod kind;
pub mod names;
pub mod recording;
pub mod stream;
pub mod summary;
pub mod text;
pub mod watchers;
