//! Live tests: the agent on the running kernel, against the kernel's own counters.
//!
//! Black box: each test makes its own network namespaces, starts the agent binary, provokes one
//! experiment, and compares what `/metrics` says with the namespace's `/proc` counters to the last
//! unit. Root is needed; a test that cannot run fails and says why. Nothing outside the test's own
//! namespaces is changed, but by the tests that are ignored for that reason: they are for a virtual
//! machine of their own. How a run can be told where it takes place is in `lab/setting.rs`.
//!
//! One module per subject; `lab` holds what they share. A subject's module says what belongs there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lab;

mod accept_queue;
mod accept_queue_edge;
mod advise;
mod agent_life;
mod bounds;
mod capacity;
mod cardinality;
mod cgroups;
mod connect;
mod connect_errors;
mod crowd;
mod endings;
mod events;
mod faults;
mod final_ack;
mod groups;
mod healthy_listener;
mod ipv6_module;
mod ladders;
mod listening;
mod machine_limits;
mod multiplied;
mod namespace_life;
mod older_connections;
mod other_drops;
mod output;
mod owners;
mod passes;
mod ports;
mod redirected;
mod refused;
mod resets;
mod retransmit;
mod simultaneous_open;
mod socket_pass;
mod supervisor;
mod syn_queue;
mod time_wait;
mod timeouts;
mod top;
mod viewpoints;
mod watchers;
mod workloads;
