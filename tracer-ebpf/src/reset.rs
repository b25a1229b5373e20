//! Which way resets go and why: the values behind the labels of one metric, and the kernel's names for them.

use crate::wire_enum;

wire_enum! {
    /// Which way a reset went.
    Direction {
        /// This host sent it.
        Sent = 0, "sent";
        /// It came to a socket of this host.
        Received = 1, "received";
    }
}

wire_enum! {
    /// Why a connection was reset. Of a reset that is sent the kernel tells the reason (`enum
    /// sk_rst_reason`, whose numbers drift); of one that came, the state of the socket says what it
    /// put an end to.
    Reason {
        /// Sent: the kernel counted it, and no hook saw it or could tell why (before Linux 6.10).
        Unknown = 0, "unknown";
        /// Sent: the kernel names no reason here.
        NotSpecified = 1, "not_specified";
        /// Sent: nobody listens on that port, or the connection is long forgotten.
        NoSocket = 2, "no_socket";
        /// Sent: the packet acknowledges what cannot have been sent.
        InvalidAckSequence = 3, "invalid_ack_sequence";
        /// Sent: the packet's timestamp is too old (PAWS).
        Rfc7323Paws = 4, "rfc7323_paws";
        /// Sent: the acknowledgement is too old.
        TooOldAck = 5, "too_old_ack";
        /// Sent: the acknowledgement is of data that was not sent yet.
        AckUnsentData = 6, "ack_unsent_data";
        /// Sent: the packet's flags make no sense.
        Flags = 7, "flags";
        /// Sent: the acknowledgement is old, but in the window.
        OldAck = 8, "old_ack";
        /// Sent: data came for a socket that its owner had closed (`TCPAbortOnData`).
        AbortOnData = 9, "abort_on_data";
        /// Sent: the packet does not fit the socket in TIME_WAIT.
        TimewaitSocket = 10, "timewait_socket";
        /// Sent: a SYN within an established connection's window.
        InvalidSyn = 11, "invalid_syn";
        /// Sent: the application closed with data unread (`TCPAbortOnClose`).
        AbortOnClose = 12, "abort_on_close";
        /// Sent: the application closed with a negative linger time (`TCPAbortOnLinger`).
        AbortOnLinger = 13, "abort_on_linger";
        /// Sent: too many orphans, or no memory for them (`TCPAbortOnMemory`).
        AbortOnMemory = 14, "abort_on_memory";
        /// Sent: the state asks for it, as where SO_LINGER with time zero, or disconnecting, ends a connection.
        State = 15, "state";
        /// Sent: the peer answered no keepalive probe.
        KeepaliveTimeout = 16, "keepalive_timeout";
        /// Sent: disconnected while data waited to be sent.
        DisconnectWithData = 17, "disconnect_with_data";
        /// Sent: one of the reasons of Multipath TCP.
        Mptcp = 18, "mptcp";
        /// Sent: an unexpected error.
        Error = 19, "error";
        /// Sent: a reason that newer kernels than this code name.
        Other = 20, "other";
        /// Received in SYN_SENT: `connect()` was refused.
        Refused = 21, "refused";
        /// Received in SYN_RECV, where only children of TCP Fast Open are full sockets: the handshake was.
        Handshake = 22, "handshake";
        /// Received in ESTABLISHED.
        Established = 23, "established";
        /// Received in CLOSE_WAIT: the peer had closed its side before.
        CloseWait = 24, "close_wait";
        /// Received after this end had closed its side: FIN_WAIT1, FIN_WAIT2, CLOSING, LAST_ACK. The
        /// kernel treats data that comes for a socket without owner as a reset, so that is here as well.
        Closing = 25, "closing";
        /// Received in CLOSE: something else had ended the connection.
        Closed = 26, "closed";
    }
}

/// Reasons that the kernel has names for, as those are without `SK_RST_REASON_`.
const KERNEL_RESET_REASONS: [(&str, Reason); 18] = [
    ("NOT_SPECIFIED", Reason::NotSpecified),
    ("NO_SOCKET", Reason::NoSocket),
    ("TCP_INVALID_ACK_SEQUENCE", Reason::InvalidAckSequence),
    ("TCP_RFC7323_PAWS", Reason::Rfc7323Paws),
    ("TCP_TOO_OLD_ACK", Reason::TooOldAck),
    ("TCP_ACK_UNSENT_DATA", Reason::AckUnsentData),
    ("TCP_FLAGS", Reason::Flags),
    ("TCP_OLD_ACK", Reason::OldAck),
    ("TCP_ABORT_ON_DATA", Reason::AbortOnData),
    ("TCP_TIMEWAIT_SOCKET", Reason::TimewaitSocket),
    ("INVALID_SYN", Reason::InvalidSyn),
    ("TCP_ABORT_ON_CLOSE", Reason::AbortOnClose),
    ("TCP_ABORT_ON_LINGER", Reason::AbortOnLinger),
    ("TCP_ABORT_ON_MEMORY", Reason::AbortOnMemory),
    ("TCP_STATE", Reason::State),
    ("TCP_KEEPALIVE_TIMEOUT", Reason::KeepaliveTimeout),
    ("TCP_DISCONNECT_WITH_DATA", Reason::DisconnectWithData),
    ("ERROR", Reason::Error),
];

impl Reason {
    /// What an enumerator of `enum sk_rst_reason` counts as.
    #[must_use]
    pub fn of_kernel(enumerator: &str) -> Self {
        let Some(name) = enumerator.strip_prefix("SK_RST_REASON_") else { return Self::Other };
        let known = KERNEL_RESET_REASONS.iter().find(|(known, _)| *known == name);
        match known {
            Some((_, reason)) => *reason,
            None if name.starts_with("MPTCP_RST_") => Self::Mptcp,
            None => Self::Other,
        }
    }
}
