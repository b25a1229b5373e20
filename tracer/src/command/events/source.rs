//! Where events come from: the running agent, or an instance of the programs of the command's own.

use std::io;

use super::agent::Agent;
use crate::{
    agent::watch::{Audience, Watch, preamble},
    events::{kind::EventKind, recording::Preamble, summary::Loss},
};

/// A source, open.
pub(super) enum Source {
    Agent(Box<Agent>),
    Own(Box<Watch>),
}

impl Source {
    /// Kinds of events that do not come from here, and why.
    pub(super) fn unseen(&self, kinds: &[EventKind]) -> Vec<(String, Option<String>)> {
        match self {
            Self::Agent(agent) => agent.unseen.clone(),
            Self::Own(watch) => watch
                .unseen(kinds)
                .map(|(kind, ladder)| {
                    (kind.name().to_owned(), ladder.refusals.last().map(|refusal| refusal.cause.clone()))
                })
                .collect(),
        }
    }

    /// Names of the network namespaces under /run/netns.
    pub(super) fn namespace_names(&self) -> Vec<String> {
        match self {
            Self::Agent(agent) => agent.namespace_names(),
            Self::Own(watch) => watch.namespace_names(),
        }
    }

    /// What a recording of it says about itself.
    pub(super) fn preamble(&self) -> Preamble {
        match self {
            Self::Agent(agent) => agent.preamble.clone(),
            Self::Own(_) => preamble(),
        }
    }

    /// Hands the audience what comes until it wants no more.
    pub(super) fn run(&mut self, audience: &mut impl Audience) -> io::Result<()> {
        match self {
            Self::Agent(agent) => {
                agent.run(audience);
                Ok(())
            }
            Self::Own(watch) => watch.run(audience),
        }
    }

    /// Ends it; if there is somebody, hands on what was there by then.
    pub(super) fn close(&mut self, audience: Option<&mut impl Audience>) {
        match self {
            Self::Agent(agent) => agent.close(audience),
            Self::Own(watch) => watch.close(audience),
        }
    }

    /// What was lost before it came to the audience, of these kinds.
    pub(super) fn losses(&self, kinds: &[EventKind]) -> io::Result<Vec<Loss>> {
        match self {
            Self::Agent(agent) => Ok(agent.losses(kinds)),
            Self::Own(watch) => watch.losses(kinds),
        }
    }

    /// Why it ended by itself, if so.
    pub(super) fn broken(&self) -> Option<&str> {
        match self {
            Self::Agent(agent) => agent.broken(),
            Self::Own(_) => None,
        }
    }
}
