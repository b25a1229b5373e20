//! What the agent asks of the kernel: namespaces to enter and the few calls that need unsafe code.

pub mod netns;
pub(crate) mod sys;
