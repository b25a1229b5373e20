//! Child processes: the one place that starts them, with errors that show what to type to repeat.
//!
//! Takes a `Command`, gives back its success or its output. Must not know what the commands do.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Error, Result, bail};

use crate::workspace;

/// A command that runs at the root of the workspace.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace::root());
    command
}

/// `cargo` of the toolchain that the workspace pins.
pub(crate) fn cargo() -> Command {
    command("cargo")
}

/// Runs the command with the terminal's input and output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs the command and gives back what it prints; its errors go to the terminal.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let bytes = capture_bytes(command)?;
    String::from_utf8(bytes).with_context(|| format!("`{}` printed no UTF-8", shown(command)))
}

/// The same for what is no text.
pub(crate) fn capture_bytes(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("starting `{}`", shown(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", shown(command), output.status);
    }
    Ok(output.stdout)
}

/// Runs the command and gives back what it prints. Its errors are shown only if it fails: for programs that talk
/// of what is in order.
pub(crate) fn capture_quietly(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting `{}`", shown(command)))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        bail!("`{}` failed: {}\n{}", shown(command), output.status, said.join("\n"));
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed no UTF-8", shown(command)))
}

/// What the command prints, or nothing if it cannot be run or fails: for questions.
pub(crate) fn probe(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// Becomes the command, so that signals from the terminal reach it alone. Returns only on failure.
pub(crate) fn replace_with(command: &mut Command) -> Error {
    let error = command.exec();
    Error::new(error).context(format!("starting `{}`", shown(command)))
}

/// Where the program is on PATH. Debian keeps administrators' tools out of the PATH of others, so
/// their directories are looked at as well.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|file| fs::metadata(file).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0))
}

/// Whether this process is root: /proc/self belongs to the effective user.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The command as it would be typed in a shell, with the variables that were set for it.
pub(crate) fn shown(command: &Command) -> String {
    let variables =
        command.get_envs().filter_map(|(name, value)| Some(format!("{}={}", name.display(), quoted(value?))));
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_shows_the_command_as_typed() {
        let error = run(Command::new("sh").args(["-c", "exit 3"]).env("A", "b c")).unwrap_err();
        assert_eq!(error.to_string(), "`A='b c' sh -c 'exit 3'` failed: exit status: 3");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program")).unwrap_err();
        assert_eq!(error.to_string(), "starting `no-such-program`");
    }

    #[test]
    fn quotes_survive() {
        assert_eq!(quoted(OsStr::new("it's")), r"'it'\''s'");
        assert_eq!(quoted(OsStr::new("")), "''");
    }

    #[test]
    fn probe_is_silent_about_failure() {
        assert_eq!(probe(Command::new("sh").args(["-c", "echo yes"])).as_deref(), Some("yes"));
        assert_eq!(probe(&mut Command::new("false")), None);
    }

    #[test]
    fn finds_programs_on_path() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program").is_none());
    }
}
