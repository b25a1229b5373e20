//! What needs no root: the agent's parts put together as its users meet them. One binary; each
//! module says what belongs there.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod advise;
mod binary;
mod command_line;
mod dashboards;
mod documents;
mod exit_codes;
mod exposition;
mod faults;
mod manual;
mod names;
mod promql;
mod pty;
mod replay;
mod rules;
mod runbooks;
mod strangers;
mod terminal;
mod top;
