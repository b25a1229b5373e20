//! Flags that `tracer events` and `tracer replay` share: which events are shown, and how.

use std::{
    fmt::Display,
    io::{self, BufWriter, IsTerminal, Write},
    str::FromStr,
};

use clap::{Args, ValueEnum};

use super::{output::Output, stop::Stop};
use crate::{
    events::{
        clock::Clock,
        filter::{Filter, Netns, Pattern, Range},
        json::Json,
        kind::EventKind,
        stream::{Format, Stream},
        text::Text,
    },
    failure::Failure,
};

/// Lines wait here until the ring is empty, or this is full.
const BUFFER_BYTES: usize = 64 << 10;

/// Which events are shown, and how.
#[derive(Args, Clone, Debug)]
pub struct Selection {
    /// Kinds of events
    #[arg(long = "kind", value_name = "KIND,…", value_delimiter = ',', value_enum)]
    pub kinds: Vec<EventKind>,
    /// Ports, of either end
    #[arg(long = "port", value_name = "PORT,…", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    ports: Vec<u16>,
    /// Addresses or ranges of them, of either end
    #[arg(long = "address", value_name = "CIDR,…", value_delimiter = ',', value_parser = parse::<Range>)]
    addresses: Vec<Range>,
    /// Pods, by name or as NAMESPACE/NAME; a * at the end stands for any rest
    #[arg(long = "pod", value_name = "POD,…", value_delimiter = ',')]
    pods: Vec<Pattern>,
    /// Processes that listen, by name; a * at the end stands for any rest
    #[arg(long = "process", value_name = "NAME,…", value_delimiter = ',')]
    processes: Vec<Pattern>,
    /// Network namespaces: host, an inode number, or a name under /run/netns
    #[arg(long = "netns", value_name = "NETNS,…", value_delimiter = ',')]
    pub namespaces: Vec<Netns>,
    /// End after so many events were shown
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How to print events
    #[arg(long, value_enum, default_value_t = Form::Text)]
    output: Form,
    /// When to colour them
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    color: Color,
}

/// Forms of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    Text,
    /// For scripts: one object a line.
    Json,
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

fn parse<T: FromStr>(text: &str) -> Result<T, String>
where
    T::Err: Display,
{
    text.parse().map_err(|error: T::Err| error.to_string())
}

impl Selection {
    /// The stages after the ring, down to standard output. Where no kinds were asked for, `kinds` are shown; empty
    /// for all.
    #[must_use]
    pub fn stream(&self, kinds: &[EventKind], clock: Clock, stop: Stop) -> Stream<impl Write + use<>> {
        let filter = Filter {
            kinds: if self.kinds.is_empty() { kinds } else { &self.kinds }.to_vec(),
            ports: self.ports.clone(),
            addresses: self.addresses.clone(),
            pods: self.pods.clone(),
            processes: self.processes.clone(),
            namespaces: self.namespaces.clone(),
        };
        let format = match self.output {
            Form::Text => Format::Text(Text::new(clock, self.is_coloured())),
            Form::Json => Format::Json(Json::new(clock)),
        };
        Stream::new(filter, format, BufWriter::with_capacity(BUFFER_BYTES, Output::new(stop)), self.count)
    }

    fn is_coloured(&self) -> bool {
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                !is_refused && io::stdout().is_terminal()
            }
        }
    }
}

/// What became of an event that could not be written: `None` where its reader had seen enough.
pub fn writing_failed(error: &io::Error) -> Option<Failure> {
    (error.kind() != io::ErrorKind::BrokenPipe).then(|| Failure::other(format!("cannot write the events: {error}")))
}

/// Says something beside the events.
pub fn say(line: &str) {
    // With stderr gone there is nobody to be told.
    let _ = writeln!(io::stderr(), "tracer: {line}");
}
