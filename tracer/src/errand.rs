//! Work that may hang, on a thread of its own: it is awaited for as long as it may take, and no longer.
//!
//! Owns the thread. One whose work hangs is left behind with it and another takes its place; how many may be left behind
//! is bounded, and while that is reached, or the same thing still hangs, nothing further is begun. Must not know what the
//! work is.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

type Work = Box<dyn FnOnce() + Send>;

/// How long one piece of work may take, and how many threads may be left behind.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time for one.
    pub time: Duration,
    /// Threads that hang.
    pub left_behind: usize,
}

/// Runs one piece of work after the other; `K` tells what each is about.
pub struct Errands<K> {
    name: &'static str,
    limits: Limits,
    thread: Option<Sender<Work>>,
    left: Vec<Left<K>>,
    cpu: Duration,
}

/// A thread that was left behind.
struct Left<K> {
    about: K,
    /// The thread has the other one for as long as it hangs.
    token: Arc<()>,
}

impl<K: PartialEq> Errands<K> {
    /// Starts nothing yet; `name` is the thread's.
    #[must_use]
    pub const fn new(name: &'static str, limits: Limits) -> Self {
        Self { name, limits, thread: None, left: Vec::new(), cpu: Duration::ZERO }
    }

    /// Has `work` done. An error of kind `TimedOut` says that it hangs, or that what it is about does since before.
    pub fn run<T: Send + 'static>(&mut self, about: K, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        self.left.retain(Left::hangs);
        if self.left.len() >= self.limits.left_behind || self.left.iter().any(|left| left.about == about) {
            return Err(hangs());
        }
        let token = Arc::new(());
        let held = Arc::clone(&token);
        let (answer, answered) = mpsc::channel();
        self.hand_over(Box::new(move || {
            let begun = thread_cpu_time();
            let result = work();
            // Nobody waits any more for what took too long.
            let _ = answer.send((result, thread_cpu_time().saturating_sub(begun)));
            drop(held);
        }))?;
        match answered.recv_timeout(self.limits.time) {
            Ok((result, cpu)) => {
                self.cpu += cpu;
                Ok(result)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                self.renew();
                self.left.push(Left { about, token });
                Err(hangs())
            }
        }
    }

    /// Lets the thread go after what it is at: the next piece of work has another.
    pub fn renew(&mut self) {
        self.thread = None;
    }

    /// The CPU time of all work that ended in time.
    #[must_use]
    pub const fn cpu_time(&self) -> Duration {
        self.cpu
    }

    /// What the threads that hang are about.
    pub fn left_behind(&self) -> impl Iterator<Item = &K> {
        self.left.iter().filter(|left| left.hangs()).map(|left| &left.about)
    }

    fn hand_over(&mut self, work: Work) -> io::Result<()> {
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => start(self.name)?,
        };
        thread.send(work).map_err(|_| io::Error::other("the thread has ended"))?;
        self.thread = Some(thread);
        Ok(())
    }
}

impl<K> Left<K> {
    fn hangs(&self) -> bool {
        Arc::strong_count(&self.token) > 1
    }
}

fn start(name: &'static str) -> io::Result<Sender<Work>> {
    let (sender, receiver) = mpsc::channel::<Work>();
    let work = move || {
        for work in receiver {
            work();
        }
    };
    thread::Builder::new().name(name.into()).spawn(work)?;
    Ok(sender)
}

fn hangs() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it hangs")
}

/// CPU time of the calling thread, in the kernel's walks as well. (Wall time would make a busy node's passes
/// rarer than they need be.)
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { time: Duration::from_millis(50), left_behind: 2 };

    fn is_hung<T>(result: &io::Result<T>) -> bool {
        result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut)
    }

    /// Work that hangs until the sender is dropped.
    fn held() -> (mpsc::Sender<()>, impl FnOnce() + Send + 'static) {
        let (hold, held) = mpsc::channel::<()>();
        (hold, move || _ = held.recv())
    }

    #[test]
    fn what_hangs_is_left_behind_and_the_rest_goes_on() {
        let mut errands = Errands::new("test", LIMITS);
        assert_eq!(errands.run("a", || 1).unwrap(), 1);
        let (hold, work) = held();
        assert!(is_hung(&errands.run("a", work)));
        assert_eq!(errands.left_behind().collect::<Vec<_>>(), [&"a"]);
        assert!(is_hung(&errands.run("a", || 2)), "it still hangs");
        assert_eq!(errands.run("b", || 3).unwrap(), 3);
        drop(hold);
        while errands.left_behind().count() > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(errands.run("a", || 4).unwrap(), 4, "it is free again");
    }

    #[test]
    fn no_more_threads_hang_than_may() {
        let mut errands = Errands::new("test", LIMITS);
        let (holds, works): (Vec<_>, Vec<_>) = (0..3).map(|_| held()).unzip();
        let hung: Vec<bool> =
            works.into_iter().enumerate().map(|(about, work)| is_hung(&errands.run(about, work))).collect();
        assert_eq!((hung, errands.left_behind().count()), (vec![true; 3], 2));
        drop(holds);
    }

    #[test]
    fn the_processor_time_is_the_works() {
        let mut errands = Errands::new("test", Limits { time: Duration::from_secs(10), ..LIMITS });
        let work = || {
            let begun = thread_cpu_time();
            while thread_cpu_time().saturating_sub(begun) < Duration::from_millis(5) {}
        };
        errands.run((), work).unwrap();
        assert!(errands.cpu_time() >= Duration::from_millis(5));
    }
}
