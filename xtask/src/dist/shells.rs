//! Completions as the shells take them: each parses, and bash and fish complete what a user began to type.

use std::path::Path;

use anyhow::{Result, ensure};

use super::prefix::COMPLETIONS;
use crate::process::{self, command};

/// What is typed, and what must be among the proposals for its last word.
const TYPED: &[(&[&str], &[&str])] = &[
    (&["tracer", "doc"], &["doctor"]),
    (&["tracer", "doctor", "--outp"], &["--output"]),
    (&["tracer", "doctor", "--output", ""], &["text", "json"]),
    (&["tracer", "run", "--log-level", "w"], &["warn"]),
    (&["tracer", "advise", "--lb"], &["--lb-idle"]),
    (&["tracer", "events", "--r"], &["--record", "--rate-limit"]),
    (&["tracer", "comp"], &["completions"]),
];

/// What is in no help, as far as it is typed above: commands for packagers, and flags of the agent that change nothing
/// for `tracer events`.
const HIDDEN: &[&str] = &["manual", "metrics-doc", "--retain"];

/// Bash reads the script, then calls its function as readline would, and prints the proposals.
const BASH: &str = r#"
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
spec=($(complete -p tracer)); function=
for ((i = 0; i < ${#spec[@]}; i++)); do [[ ${spec[i]} == -F ]] && function=${spec[i + 1]}; done
"$function" tracer "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// Checks the completions under the prefix.
pub(super) fn complete(prefix: &Path, commands: &[String]) -> Result<()> {
    for (shell, place) in COMPLETIONS {
        process::run(command(shell).arg("-n").arg(prefix.join(place)))?;
    }
    let names: Vec<&str> = commands.iter().map(String::as_str).collect();
    let first: (&[&str], &[&str]) = (&["tracer", ""], &names);
    for (typed, wanted) in TYPED.iter().chain([&first]) {
        among("bash", typed, wanted, &by_bash(prefix, typed)?)?;
        among("fish", typed, wanted, &by_fish(prefix, typed)?)?;
    }
    Ok(())
}

fn among(shell: &str, typed: &[&str], wanted: &[&str], proposed: &str) -> Result<()> {
    let proposals: Vec<&str> = proposed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    for word in wanted {
        ensure!(proposals.contains(word), "{shell} does not propose `{word}` for {typed:?}, but {proposals:?}");
    }
    let hidden = proposals.iter().find(|word| HIDDEN.contains(word));
    ensure!(hidden.is_none(), "{shell} proposes {hidden:?}, which help does not show, for {typed:?}");
    Ok(())
}

fn by_bash(prefix: &Path, typed: &[&str]) -> Result<String> {
    let script = prefix.join(place("bash"));
    process::capture(command("bash").args(["--norc", "-c", BASH, "bash"]).arg(script).args(typed))
}

fn by_fish(prefix: &Path, typed: &[&str]) -> Result<String> {
    let home = tempfile::tempdir()?;
    let script = "source $argv[1]; complete -C $argv[2]";
    process::capture(
        command("fish")
            .args(["--no-config", "-c", script])
            .arg(prefix.join(place("fish")))
            .arg(typed.join(" "))
            // Where it keeps what it has learnt.
            .env("HOME", home.path()),
    )
}

fn place(shell: &str) -> &'static str {
    COMPLETIONS.iter().find(|(name, _)| *name == shell).map_or("", |(_, place)| place)
}
