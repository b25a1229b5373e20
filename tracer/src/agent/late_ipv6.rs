//! IPv6 as a module that is loaded after the agent has attached its hooks: the functions of IPv6 are not hooked then.

use crate::kernel::{
    hooks::{Report, Signal},
    load::ipv6_is_loaded,
};

/// Whether that may still happen.
#[derive(Debug, Default)]
pub struct LateIpv6 {
    is_awaited: bool,
}

impl LateIpv6 {
    /// After the hooks were attached.
    #[must_use]
    pub fn after(report: &Report, is_loaded: bool) -> Self {
        let is_missed = report.of(Signal::ListenDrops).is_some_and(|drops| drops.ipv4_alone);
        Self { is_awaited: is_missed && !is_loaded }
    }

    /// Says once that it came.
    pub fn look(&mut self) {
        if self.came(ipv6_is_loaded) {
            tracing::warn!(
                remedy = "start the agent again",
                "IPv6 was loaded after the hooks were attached: drops over IPv6 have no owner and no reason"
            );
        }
    }

    /// Whether it has come since it was last asked for; true once.
    fn came(&mut self, is_loaded: impl FnOnce() -> bool) -> bool {
        let came = self.is_awaited && is_loaded();
        self.is_awaited &= !came;
        came
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_that_comes_late_is_said_once() {
        let report = |ipv4_alone| {
            let mut report = Report::nothing();
            report.ladders.iter_mut().for_each(|ladder| ladder.ipv4_alone = ipv4_alone);
            report
        };
        let mut late = LateIpv6::after(&report(true), false);
        assert_eq!([false, true, true].map(|is_loaded| late.came(|| is_loaded)), [false, true, false]);
        assert!(!LateIpv6::after(&report(true), true).came(|| true), "it was there, and could not be hooked");
        assert!(!LateIpv6::after(&report(false), false).came(|| true), "hooks are there");
    }
}
