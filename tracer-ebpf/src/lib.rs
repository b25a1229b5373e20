//! The wire format shared by the eBPF programs and the agent.
//!
//! Owns: the layout of ring records ([`event`]), of map keys and values ([`counter`], [`destination`],
//! [`reset`], [`rows`]) and of the constants handed over at load ([`settings`]). Does no I/O and holds no logic beyond naming.
//! Both sides compile this file, so a layout cannot drift; sizes are asserted at compile time
//! because padding inside a map key would silently split one row into several.
#![cfg_attr(target_arch = "bpf", no_std)]
#![forbid(unsafe_code)]

pub mod counter;
pub mod destination;
pub mod event;
pub mod reset;
pub mod rows;
pub mod settings;

/// Declares a `repr(u8)` enum whose values travel as plain bytes, with the name that each value
/// has in a metric label or in the output of a command.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $value:literal, $label:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $value,)+ }

        impl $name {
            /// Every value, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// How many values there are; they are numbered from zero without gaps.
            pub const COUNT: usize = Self::ALL.len();

            /// The value's name as users see it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// The value with this number, if there is one.
            #[must_use]
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}
pub(crate) use wire_enum;

/// States of a TCP socket, numbered as in the kernel's `include/net/tcp_states.h`.
pub mod state {
    /// `TCP_ESTABLISHED`
    pub const ESTABLISHED: u8 = 1;
    /// `TCP_SYN_SENT`
    pub const SYN_SENT: u8 = 2;
    /// `TCP_SYN_RECV`
    pub const SYN_RECV: u8 = 3;
    /// `TCP_FIN_WAIT1`
    pub const FIN_WAIT1: u8 = 4;
    /// `TCP_FIN_WAIT2`
    pub const FIN_WAIT2: u8 = 5;
    /// `TCP_TIME_WAIT`
    pub const TIME_WAIT: u8 = 6;
    /// `TCP_CLOSE`
    pub const CLOSE: u8 = 7;
    /// `TCP_CLOSE_WAIT`
    pub const CLOSE_WAIT: u8 = 8;
    /// `TCP_LAST_ACK`
    pub const LAST_ACK: u8 = 9;
    /// `TCP_LISTEN`
    pub const LISTEN: u8 = 10;
    /// `TCP_CLOSING`
    pub const CLOSING: u8 = 11;
    /// `TCP_NEW_SYN_RECV`
    pub const NEW_SYN_RECV: u8 = 12;

    /// Names as `ss` and `/proc` documentation spell them; index 0 and unknown numbers are `"UNKNOWN"`.
    #[must_use]
    pub const fn name(state: u8) -> &'static str {
        match state {
            1 => "ESTABLISHED",
            2 => "SYN_SENT",
            3 => "SYN_RECV",
            4 => "FIN_WAIT1",
            5 => "FIN_WAIT2",
            6 => "TIME_WAIT",
            7 => "CLOSE",
            8 => "CLOSE_WAIT",
            9 => "LAST_ACK",
            10 => "LISTEN",
            11 => "CLOSING",
            12 => "NEW_SYN_RECV",
            13 => "BOUND_INACTIVE",
            _ => "UNKNOWN",
        }
    }
}
