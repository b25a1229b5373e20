//! What CI runs in guests: the tests whose outcome depends on the kernel. Everything runs in the release gate.

use crate::kernels::Series;

/// The oldest kernel, one of the middle, the newest.
pub(super) const KERNELS: [Series; 3] = [Series::V5_10, Series::V6_1, Series::Newest];

/// Whole names.
pub(super) const TESTS: &[&str] = &[
    // Which hooks there are, and each rung that they give.
    "lab::machine::a_guest_is_what_its_rung_says",
    "ladders::each_rung_of_drops_and_time_wait_overflows_tells_what_it_can",
    // What the kernel drops, where and in which order it looks at its queues.
    "accept_queue::listen_5_over_veth",
    "accept_queue::ipv4_client_of_an_ipv6_listener",
    "accept_queue::limit_follows_a_second_listen",
    "accept_queue_edge::over_ipv6",
    "final_ack::last_acks_over_ipv4",
    "syn_queue::without_cookies_the_queue_drops",
    "syn_queue::with_cookies_the_accept_queue_decides",
    "syn_queue::unproven_sources_are_pruned",
    "syn_queue::cookie_acks_meet_a_full_accept_queue_of_a_reuseport_group",
    "syn_queue::queue_of_an_ipv6_listener_without_cookies",
    "other_drops::syns_without_a_way_back",
    "other_drops::icmp_ends_handshakes",
    // What is sent again, how often a connect is tried, and what the tracepoint shows of it.
    "retransmit::loss_towards_the_client",
    "retransmit::fast_open_syn_acks_sent_again_count_at_their_listener",
    "retransmit::blackholed_connect_climbs_the_ladder_of_its_namespace",
    "retransmit::syns_that_never_leave_balance_against_retrans_fail",
    "retransmit::data_that_never_leaves_balances_against_retrans_fail",
    // One test of each other signal.
    "connect::unreachable_by_icmp",
    "connect::no_ephemeral_port_is_left",
    "time_wait::clients_over_ipv6",
    "workloads::two_units_in_one_namespace",
    "resets::a_closed_port_resets_in_the_name_of_its_namespace",
    "resets::a_reset_that_finds_no_way_back_is_no_secret",
    "timeouts::of_data_by_a_client_and_by_a_server",
    "ports::both_families_are_told_apart_and_mapped_addresses_are_not",
    "socket_pass::counts_by_state_equal_proc",
    "events::every_drop_of_a_listener_that_was_there",
    // Whose a number is.
    "owners::listener_of_a_pod_that_is_older_than_the_agent",
    "namespace_life::owners_of_two_lives_with_the_same_inode",
    // Limits of the whole machine. Only guests may change them.
    "machine_limits::orphans_beyond_the_limit",
    "machine_limits::memory_pressure_with_data_stuck",
    "machine_limits::device_backlog_that_is_too_short",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest fails too if one of them does not run.
    #[test]
    fn each_is_a_test_of_its_module_and_there_are_not_too_many() {
        let live = crate::workspace::root().join("tracer/tests/live");
        for name in TESTS {
            let (module, test) = name.rsplit_once("::").unwrap();
            let file = live.join(module.replace("::", "/")).with_extension("rs");
            let source = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert!(source.contains(&format!("fn {test}()")), "{name}");
        }
        assert!((25..=40).contains(&TESTS.len()), "{}", TESTS.len());
    }
}
