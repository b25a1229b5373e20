//! The kernel's reasons for resets as the agent names them: a table that is handed to the programs. Takes
//! what BTF says; the numbers differ from kernel to kernel.

use tracer_ebpf::{reset::Reason, settings::RESET_REASONS_MAX};

/// What each number of the kernel's reasons for resets counts as; a number without a name is another reason.
pub(super) fn reset_reasons(enumerators: &[(&str, u64)]) -> [u8; RESET_REASONS_MAX] {
    let mut reasons = [Reason::Other as u8; RESET_REASONS_MAX];
    for (name, number) in enumerators {
        let slot = usize::try_from(*number).ok().and_then(|number| reasons.get_mut(number));
        if let Some(slot) = slot {
            *slot = Reason::of_kernel(name) as u8;
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_for_resets_are_known_by_name() {
        let reasons = reset_reasons(&[
            ("SK_RST_REASON_NO_SOCKET", 3),
            ("SK_RST_REASON_MPTCP_RST_EPROHIBIT", 63),
            ("SK_RST_REASON_OF_TOMORROW", 4),
            ("SK_RST_REASON_TCP_STATE", 64),
            ("SK_RST_REASON_ERROR", u64::MAX),
        ]);
        let named = |number: usize| Reason::from_u8(reasons[number]);
        assert_eq!(named(3), Some(Reason::NoSocket));
        assert_eq!(named(63), Some(Reason::Mptcp));
        assert_eq!((named(4), named(5)), (Some(Reason::Other), Some(Reason::Other)));
        assert_eq!(reset_reasons(&[]), [Reason::Other as u8; RESET_REASONS_MAX]);
    }
}
