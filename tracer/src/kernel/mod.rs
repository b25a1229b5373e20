//! What is asked of the running kernel: preflight, BTF offsets, hooks and maps, namespaces.

pub mod btf;
pub mod hooks;
pub mod identity;
pub mod listening;
pub mod load;
pub mod maps;
pub mod netns;
pub mod ports;
pub mod preflight;
pub mod proc_sys;
pub mod program_stats;
pub mod quota;
pub mod shortage;
pub mod sys;
pub mod table;
pub mod version;
pub mod viewpoint;
pub mod walk;
