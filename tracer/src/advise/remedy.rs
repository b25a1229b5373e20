//! Commands for people to type. Nothing here, nor anywhere in the tracer, runs them.
//!
//! Names in them come from outside, so each is quoted unless it is plain.

use std::borrow::Cow;

use super::facts::HOST;
use super::finding::Step;
use super::subject::Subject;
use crate::legible::is_legible;

/// Sets `setting` where the subject lives.
#[must_use]
pub fn set(subject: &Subject, text: impl Into<String>, setting: &str, value: &str) -> Step {
    let mut text = text.into();
    let quoted = if value.contains(' ') { format!("\"{value}\"") } else { value.to_owned() };
    let sysctl = format!("sysctl -w {setting}={quoted}");
    let command = match subject.netns.as_str() {
        "" | HOST => Some(sysctl),
        _ if !subject.pod.is_empty() => {
            let pods = "The pod's network namespace has its own value: in its spec.securityContext.sysctls (which the \
                        kubelet must allow) set";
            text = format!("{text} {pods} {setting} to {value}.");
            None
        }
        netns => Some(format!("{} {sysctl}", enter(subject, netns))),
    };
    Step { text, command }
}

/// Looks at something where the subject lives.
#[must_use]
pub fn look(subject: &Subject, text: impl Into<String>, command: &str) -> Step {
    let command = match subject.netns.as_str() {
        "" | HOST => command.to_owned(),
        netns => format!("{} {command}", enter(subject, netns)),
    };
    Step { text: text.into(), command: Some(command) }
}

/// How to run a command in a network namespace that is not the host's.
fn enter(subject: &Subject, netns: &str) -> String {
    // Docker's names stand in a directory that `ip netns` does not know.
    let is_dockers = subject.netns_name.len() == 12 && subject.netns_name.bytes().all(|byte| byte.is_ascii_hexdigit());
    // What is not shown as it is cannot be copied.
    if subject.netns_name.is_empty() || is_dockers || !is_legible(&subject.netns_name) {
        format!("nsenter -n -t $(lsns -no PID {} | head -n 1)", quote(netns))
    } else {
        format!("ip netns exec {}", quote(&subject.netns_name))
    }
}

/// Makes the process start again, so that it calls `listen()` anew or gets new limits.
#[must_use]
pub fn restart(subject: &Subject, why: &str) -> Step {
    let command = (subject.unit.ends_with(".service") && is_legible(&subject.unit))
        .then(|| format!("systemctl restart {}", quote(&subject.unit)));
    let what = if !subject.pod.is_empty() {
        "Restart the pod".to_owned()
    } else if !subject.container.is_empty() {
        format!("Restart container {}", subject.container)
    } else if !subject.process.is_empty() {
        format!("Restart {}", subject.process)
    } else {
        "Restart the process".to_owned()
    };
    Step { text: format!("{what}: {why}"), command: if subject.pod.is_empty() { command } else { None } }
}

/// A word for the shell.
#[must_use]
pub fn quote(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-@:/".contains(c);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(is_plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', "'\\''")))
}

/// A roomier limit: four times as much, at least 1024, a power of two, no more than `max`.
#[must_use]
pub fn roomier(limit: f64, max: u32) -> String {
    let mut next: u32 = 1024;
    while f64::from(next) < limit * 4.0 && next < max {
        next = next.saturating_mul(2);
    }
    next.min(max).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(netns: &str, name: &str, pod: &str) -> Subject {
        Subject { netns: netns.into(), netns_name: name.into(), pod: pod.into(), ..Subject::default() }
    }

    #[test]
    fn a_setting_is_set_where_it_applies() {
        let command = |subject: &Subject| set(subject, "Do.", "net.core.somaxconn", "9").command;
        let sysctl = "sysctl -w net.core.somaxconn=9";
        assert_eq!(command(&Subject::node()).as_deref(), Some(sysctl));
        assert_eq!(command(&subject("host", "", "")).as_deref(), Some(sysctl));
        assert_eq!(command(&subject("7", "blue", "")), Some(format!("ip netns exec blue {sysctl}")));
        let by_inode = Some(format!("nsenter -n -t $(lsns -no PID 7 | head -n 1) {sysctl}"));
        assert_eq!(command(&subject("7", "", "")), by_inode);
        assert_eq!(command(&subject("7", "0123456789ab", "")), by_inode);
        let in_pod = set(&subject("7", "cni-1", "web"), "Do.", "net.core.somaxconn", "9");
        assert_eq!(in_pod.command, None);
        assert!(
            in_pod.text.starts_with(
                "Do. The \
         pod's"
            ) && in_pod.text.contains("securityContext"),
            "{}",
            in_pod.text
        );
        let range = set(&Subject::node(), "Do.", "net.ipv4.ip_local_port_range", "1024 65535").command;
        assert_eq!(range.as_deref(), Some("sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\""));
    }

    #[test]
    fn a_look_is_taken_where_the_subject_lives() {
        let command = |subject: &Subject| look(subject, "Look.", "ss -t").command;
        assert_eq!(command(&subject("host", "", "")).as_deref(), Some("ss -t"));
        assert_eq!(command(&subject("7", "cni-1", "web")).as_deref(), Some("ip netns exec cni-1 ss -t"));
        assert_eq!(
            command(&subject("7", "", "web")).as_deref(),
            Some("nsenter -n -t $(lsns -no PID 7 | head -n 1) ss -t")
        );
    }

    #[test]
    fn no_name_is_in_a_command_that_is_not_shown_as_it_is() {
        let odd = "a\u{202e}ecivres.b.service";
        let by_inode = Some("nsenter -n -t $(lsns -no PID 7 | head -n 1) ss -t".to_owned());
        assert_eq!(look(&subject("7", odd, ""), "Look.", "ss -t").command, by_inode);
        let unit = Subject { unit: odd.into(), process: "x".into(), ..Subject::default() };
        assert_eq!(restart(&unit, "now."), Step { text: "Restart x: now.".into(), command: None });
    }

    #[test]
    fn names_cannot_leave_their_word() {
        assert_eq!(quote("a-b.service"), "a-b.service");
        assert_eq!(quote("$(reboot)"), "'$(reboot)'");
        assert_eq!(quote("a'b"), "'a'\\''b'");
        assert_eq!(quote("-rf"), "'-rf'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn a_service_is_restarted_by_systemd() {
        let unit = |unit: &str, pod: &str| Subject {
            unit: unit.into(),
            pod: pod.into(),
            process: "x".into(),
            ..Subject::default()
        };
        assert_eq!(restart(&unit("a.service", ""), "").command.as_deref(), Some("systemctl restart a.service"));
        assert_eq!(restart(&unit("session-3.scope", ""), "now.").command, None);
        assert_eq!(restart(&unit("session-3.scope", ""), "now.").text, "Restart x: now.");
        assert_eq!(restart(&unit("kubelet.service", "web"), "").command, None);
    }

    #[test]
    fn more_room_is_a_power_of_two() {
        assert_eq!(roomier(5.0, 65_535), "1024");
        assert_eq!(roomier(4096.0, 65_535), "16384");
        assert_eq!(roomier(30_000.0, 65_535), "65535");
    }
}
