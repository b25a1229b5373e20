//! The terminal: taken, drawn on, and given back on every way out: keys, signals, errors, a panic.
//!
//! Three threads send to one channel: keys, signals, readings. The loop takes one message after the other and
//! draws, at least once a second, since ages are shown. A reader that waits for an agent holds up no key.

use std::{
    io::{self, IsTerminal, Stdout},
    panic,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor,
        event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
        execute,
        terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};

use super::{
    super::leave::{self, Caller},
    color,
    feed::Feed,
    signals::{self, Caught},
};
use crate::{
    failure::Failure,
    top::{
        draw::{self, Drawn, Scene},
        header::{Source, Trouble},
        rates::History,
        reading::Reading,
        screen::{Key, Next, Screen},
    },
};

/// Ages are shown in seconds.
const TICK: Duration = Duration::from_secs(1);
/// More keys than this at once are a paste, and wait for their turn.
const MESSAGES_MAX: usize = 256;
/// Reading takes at most one part in so many of the time, however much there is to read.
const REST: u32 = 4;

/// What happened.
enum Message {
    Key(Key),
    /// The terminal has another size.
    Resized,
    Read(Result<Option<Arc<Reading>>, Failure>),
    /// A signal asks to leave.
    Leave,
    /// Ctrl-Z, as a key or a signal.
    Suspend,
    /// The process was stopped, by Ctrl-Z or from outside, and runs again.
    Continued,
    /// The terminal gives no more keys.
    InputEnded(io::Error),
}

/// Whether a screen can be drawn: on a terminal that can move its cursor.
pub(super) fn is_usable() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Shows the screen until the user leaves.
pub(super) fn show(
    screen: Screen,
    feed: Feed,
    history: History,
    first: Arc<Reading>,
    interval: Duration,
) -> Result<(), Failure> {
    let source = feed.source(Duration::ZERO, None);
    let is_own_look = feed.is_own_look();
    let (sender, messages) = mpsc::sync_channel(MESSAGES_MAX);
    watch_signals(sender.clone())?;
    let taken = Taken::take()?;
    watch_keys(sender.clone())?;
    let (stop, stopped) = mpsc::channel();
    let reader = watch_feed(feed, history, interval, stopped, sender)?;
    let shown = Shown { reading: first, at: Instant::now() };
    let outcome = Live { screen, source, shown, waiting: None, trouble: None, drawn: Drawn::default(), color: color() }
        .run(taken, &messages);
    drop(stop);
    // A reader that waits to send wakes.
    drop(messages);
    // Only what is attached must be waited for: an agent may take its time to answer.
    if !is_own_look {
        return outcome;
    }
    let ended = reader.join().unwrap_or_else(|_| Err(Failure::other("the reader did not end as it should")));
    ended.and(outcome)
}

/// A reading, and when it came.
struct Shown {
    reading: Arc<Reading>,
    at: Instant,
}

/// The screen while it is shown.
struct Live {
    screen: Screen,
    source: Source,
    shown: Shown,
    /// What came during a pause.
    waiting: Option<Shown>,
    trouble: Option<(SystemTime, Instant, String)>,
    drawn: Drawn,
    color: bool,
}

impl Live {
    fn run(mut self, mut taken: Taken, messages: &Receiver<Message>) -> Result<(), Failure> {
        let caller = Caller::new(false);
        let drawing = leave::end_stuck_writes();
        loop {
            if caller.has_left() {
                return Ok(());
            }
            drawing.store(true, Ordering::Relaxed);
            let drawn = self.draw(&mut taken.terminal);
            drawing.store(false, Ordering::Relaxed);
            drawn.map_err(|error| Failure::other(format!("cannot draw on the terminal: {error}")))?;
            let mut message = match messages.recv_timeout(TICK) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::other("nothing comes any more")),
            };
            // Everything that is there already, and then one frame.
            loop {
                match message {
                    Message::Suspend => taken.suspend()?,
                    Message::Continued => taken.again()?,
                    message => {
                        if self.take(message)? == Next::Quit {
                            return Ok(());
                        }
                    }
                }
                match messages.try_recv() {
                    Ok(next) => message = next,
                    Err(_) => break,
                }
            }
        }
    }

    fn take(&mut self, message: Message) -> Result<Next, Failure> {
        match message {
            Message::Key(key) => {
                let next = self.screen.press(key, self.drawn.rows);
                if !self.screen.paused
                    && let Some(waiting) = self.waiting.take()
                {
                    self.shown = waiting;
                }
                return Ok(next);
            }
            Message::Resized | Message::Suspend | Message::Continued => {}
            Message::Leave => return Ok(Next::Quit),
            Message::Read(Ok(None)) => self.trouble = None,
            Message::Read(Ok(Some(reading))) => {
                self.trouble = None;
                let shown = Shown { reading, at: Instant::now() };
                if self.screen.paused {
                    self.waiting = Some(shown);
                } else {
                    self.shown = shown;
                }
            }
            Message::Read(Err(failure)) => match &mut self.trouble {
                Some((_, _, cause)) => *cause = failure.message,
                None => self.trouble = Some((SystemTime::now(), Instant::now(), failure.message)),
            },
            Message::InputEnded(error) => {
                return Err(Failure::other(format!("the terminal gives no more keys: {error}")));
            }
        }
        Ok(Next::Stay)
    }

    fn draw(&mut self, terminal: &mut Terminal<CrosstermBackend<Stdout>>) -> io::Result<()> {
        self.source.now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.source.age = self.shown.at.elapsed();
        self.source.trouble = self.trouble.as_ref().map(|(since, began, cause)| Trouble {
            since: clock(*since),
            lasts: began.elapsed(),
            cause: cause.clone(),
        });
        let scene =
            Scene { screen: &self.screen, reading: &self.shown.reading, source: &self.source, color: self.color };
        let mut drawn = Drawn::default();
        terminal.draw(|frame| drawn = draw::draw(frame, &scene))?;
        self.screen.settle(drawn.first);
        self.drawn = drawn;
        Ok(())
    }
}

/// The time of day, in UTC as logs have it.
fn clock(time: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.split_once('T').map_or(text.clone(), |(_, clock)| clock.to_owned())
}

/// A terminal that is given back when this goes.
struct Taken {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Taken {
    fn take() -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            give_back();
            Failure::other(format!("cannot use the terminal: {error}; --once prints one screen as text"))
        };
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            // First, or the message would be lost with the screen; whichever thread it is, the screen is over.
            give_back();
            hook(panic);
            std::process::abort();
        }));
        Ok(Self { terminal: enter().map_err(failed)? })
    }

    /// Gives the terminal back and stops, as Ctrl-Z does where no screen has taken the keys. The shell has the terminal
    /// until SIGCONT comes; where no shell waits nothing stops, and the screen goes on.
    fn suspend(&mut self) -> Result<(), Failure> {
        give_back();
        signals::stop_group().map_err(|error| Failure::other(format!("cannot stop: {error}")))?;
        self.again()
    }

    /// Takes the terminal after a stop. Whoever had it meanwhile has set it and written on it as they liked.
    fn again(&mut self) -> Result<(), Failure> {
        give_back();
        self.terminal = enter().map_err(|error| Failure::other(format!("cannot use the terminal again: {error}")))?;
        Ok(())
    }
}

/// Keys one by one, and a screen of its own with nothing on it.
fn enter() -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, Clear(ClearType::All), cursor::Hide)?;
    Terminal::new(CrosstermBackend::new(io::stdout()))
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// As it was before. A terminal that is gone needs nothing.
fn give_back() {
    let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
    let _ = disable_raw_mode();
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>, Failure> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|error| Failure::other(format!("cannot start the thread of {name}: {error}")))
}

/// What signals ask for.
fn watch_signals(messages: SyncSender<Message>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::other(format!("cannot catch signals: {error}"));
    let mut signals = signals::Signals::catch().map_err(failed)?;
    spawn("signals", move || {
        loop {
            let message = match signals.next() {
                Caught::Leave => Message::Leave,
                Caught::Suspend => Message::Suspend,
                Caught::Continued => Message::Continued,
            };
            // Nobody listens any more once the screen is gone.
            if messages.send(message).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

fn watch_keys(messages: SyncSender<Message>) -> Result<(), Failure> {
    spawn("keys", move || {
        loop {
            let message = match event::read() {
                Ok(Event::Key(event)) if is_suspension(event) => Message::Suspend,
                Ok(Event::Key(event)) => match key(event) {
                    Some(key) => Message::Key(key),
                    None => continue,
                },
                Ok(Event::Resize(..)) => Message::Resized,
                Ok(_) => continue,
                Err(error) => Message::InputEnded(error),
            };
            let is_last = matches!(message, Message::InputEnded(_));
            if messages.send(message).is_err() || is_last {
                return;
            }
        }
    })?;
    Ok(())
}

/// Ctrl-Z, which a terminal whose keys are taken makes no signal of.
fn is_suspension(event: KeyEvent) -> bool {
    event.kind != KeyEventKind::Release
        && event.code == KeyCode::Char('z')
        && event.modifiers.contains(KeyModifiers::CONTROL)
}

fn key(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    let control = event.modifiers.contains(KeyModifiers::CONTROL);
    Some(match event.code {
        KeyCode::Char('c') if control => Key::Interrupt,
        KeyCode::Char(_) if control || event.modifiers.contains(KeyModifiers::ALT) => return None,
        KeyCode::Char(c) => Key::Character(c),
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}

/// Reads again and again, until the other end of `stopped` is dropped; then detaches.
fn watch_feed(
    mut feed: Feed,
    mut history: History,
    interval: Duration,
    stopped: Receiver<()>,
    messages: SyncSender<Message>,
) -> Result<thread::JoinHandle<Result<(), Failure>>, Failure> {
    spawn("readings", move || {
        let mut pause = interval;
        while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            let began = Instant::now();
            let read = feed.read().map(|reading| reading.map(|reading| history.add(reading)));
            pause = interval.max(began.elapsed() * REST);
            if messages.send(Message::Read(read)).is_err() {
                break;
            }
        }
        feed.end()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_they_say() {
        let plain = |code| key(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(plain(KeyCode::Char('q')), Some(Key::Character('q')));
        assert_eq!(plain(KeyCode::Esc), Some(Key::Escape));
        assert_eq!(plain(KeyCode::F(1)), None);
        let control = |c| key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL));
        assert_eq!((control('c'), control('q')), (Some(Key::Interrupt), None));
        let shifted = key(KeyEvent::new(KeyCode::Char('S'), KeyModifiers::SHIFT));
        assert_eq!(shifted, Some(Key::Character('S')));
    }

    #[test]
    fn the_time_of_day_is_utc() {
        assert_eq!(clock(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)), "22:13:20Z");
    }
}
