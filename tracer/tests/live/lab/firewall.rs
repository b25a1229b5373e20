//! Packet loss on purpose: nftables rules inside one namespace.

use super::netns::Netns;

/// Rules of one namespace; all are gone when it is dropped.
pub(crate) struct Firewall<'a> {
    netns: &'a Netns,
}

impl<'a> Firewall<'a> {
    /// Installs `rule` (nft syntax) at `hook`: input, output or forward.
    pub(crate) fn install(netns: &'a Netns, hook: &str, rule: &str) -> Self {
        Self::at(netns, hook, "0", rule)
    }

    /// Installs a rule that gives packets to another socket than theirs.
    pub(crate) fn redirect(netns: &'a Netns, rule: &str) -> Self {
        Self::at(netns, "prerouting", "mangle", rule)
    }

    fn at(netns: &'a Netns, hook: &str, priority: &str, rule: &str) -> Self {
        netns.command("nft", &["add", "table", "inet", "live"]);
        let firewall = Self { netns };
        let kind = format!("{{ type filter hook {hook} priority {priority}; }}");
        netns.command("nft", &["add", "chain", "inet", "live", hook, &kind]);
        firewall.add(hook, rule);
        firewall
    }

    /// Adds a rule to the chain of [`Self::install`].
    pub(crate) fn add(&self, hook: &str, rule: &str) {
        let mut arguments = vec!["add", "rule", "inet", "live", hook];
        arguments.extend(rule.split_whitespace());
        self.netns.command("nft", &arguments);
    }
}

impl Drop for Firewall<'_> {
    fn drop(&mut self) {
        self.netns.command("nft", &["delete", "table", "inet", "live"]);
    }
}
