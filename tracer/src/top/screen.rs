//! What was chosen by keys: the table, its order, the filter, whether the screen stands still.

use super::{
    column::{LISTENERS, NAMESPACES, Table, WORKLOADS},
    page::{Page, Wish},
    reading::Reading,
};

/// A filter longer than this finds nothing that a shorter one would not.
const FILTER_MAX: usize = 64;

/// The tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    /// Listeners.
    #[default]
    Listeners,
    /// Workloads.
    Workloads,
    /// Network namespaces.
    Namespaces,
}

impl Tab {
    /// From left to right.
    pub const ALL: [Self; 3] = [Self::Listeners, Self::Workloads, Self::Namespaces];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Listeners => LISTENERS.name,
            Self::Workloads => WORKLOADS.name,
            Self::Namespaces => NAMESPACES.name,
        }
    }

    /// Headings and meanings of its columns.
    #[must_use]
    pub fn columns(self) -> Vec<(&'static str, &'static str)> {
        fn of<R>(table: &Table<R>) -> Vec<(&'static str, &'static str)> {
            table.columns.iter().map(|column| (column.title, column.meaning)).collect()
        }
        match self {
            Self::Listeners => of(&LISTENERS),
            Self::Workloads => of(&WORKLOADS),
            Self::Namespaces => of(&NAMESPACES),
        }
    }

    /// How many rows of a reading it shows.
    #[must_use]
    pub fn rows(self, reading: &Reading) -> usize {
        match self {
            Self::Listeners => shown(&LISTENERS, reading.listeners.all()),
            Self::Workloads => shown(&WORKLOADS, reading.workloads.all()),
            Self::Namespaces => shown(&NAMESPACES, reading.namespaces.all()),
        }
    }

    fn default_sort(self) -> usize {
        match self {
            Self::Listeners => LISTENERS.default_sort(),
            Self::Workloads => WORKLOADS.default_sort(),
            Self::Namespaces => NAMESPACES.default_sort(),
        }
    }
}

fn shown<R>(table: &Table<R>, rows: &[R]) -> usize {
    rows.iter().filter(|row| (table.is_shown)(row)).count()
}

/// A key, whatever the terminal calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Character(char),
    /// Arrows.
    Left,
    /// The same.
    Right,
    /// The same.
    Up,
    /// The same.
    Down,
    /// A screen back.
    PageUp,
    /// A screen on.
    PageDown,
    /// To the first row.
    Home,
    /// To the last row.
    End,
    /// The next table.
    Tab,
    /// The one before.
    BackTab,
    /// Done.
    Enter,
    /// Back.
    Escape,
    /// One character less.
    Backspace,
    /// Ctrl-C.
    Interrupt,
}

/// What keys mean now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Choosing what to see.
    #[default]
    Table,
    /// Writing the filter; with what it was before.
    Filter(String),
    /// Reading help, from this line on.
    Help(usize),
}

/// What follows a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The screen goes on.
    Stay,
    /// The user leaves.
    Quit,
}

/// How one table is looked at.
#[derive(Clone, Copy, Debug)]
struct Choice {
    sort: usize,
    reversed: bool,
    first: usize,
}

/// Everything that was chosen.
#[derive(Clone, Debug)]
pub struct Screen {
    /// The table that is seen.
    pub tab: Tab,
    /// Text that rows must have.
    pub filter: String,
    /// What keys mean.
    pub mode: Mode,
    /// Whether the screen keeps what it shows.
    pub paused: bool,
    choices: [Choice; Tab::ALL.len()],
}

impl Default for Screen {
    fn default() -> Self {
        let choices = Tab::ALL.map(|tab| Choice { sort: tab.default_sort(), reversed: false, first: 0 });
        Self { tab: Tab::default(), filter: String::new(), mode: Mode::Table, paused: false, choices }
    }
}

impl Screen {
    /// A table with a filter, sorted as it is at first.
    #[must_use]
    pub fn new(tab: Tab, filter: &str) -> Self {
        Self { tab, filter: filter.to_owned(), ..Self::default() }
    }

    /// Sorts the table that is seen by the column of this title; `false` if it has none.
    pub fn sort_by(&mut self, title: &str) -> bool {
        let at = self.tab.columns().iter().position(|(column, _)| *column == title);
        if let Some(at) = at {
            self.choice().sort = at;
        }
        at.is_some()
    }

    /// Takes a key; `page` is how many rows are seen at once.
    pub fn press(&mut self, key: Key, page: usize) -> Next {
        if key == Key::Interrupt {
            return Next::Quit;
        }
        match std::mem::take(&mut self.mode) {
            Mode::Table => return self.choose(key, page),
            Mode::Filter(before) => self.write(key, before),
            Mode::Help(line) => self.read(key, line, page),
        }
        Next::Stay
    }

    fn choose(&mut self, key: Key, page: usize) -> Next {
        match key {
            Key::Character('q') | Key::Escape => return Next::Quit,
            Key::Character(digit @ '1'..='3') => self.tab = Tab::ALL[digit as usize - '1' as usize],
            Key::Tab => self.turn(1),
            Key::BackTab => self.turn(Tab::ALL.len() - 1),
            Key::Right | Key::Character('s') => self.next_sort(1),
            Key::Left | Key::Character('S') => self.next_sort(self.tab.columns().len() - 1),
            Key::Character('r') => self.choice().reversed ^= true,
            Key::Character('/') => self.mode = Mode::Filter(self.filter.clone()),
            Key::Character('p' | ' ') => self.paused ^= true,
            Key::Character('?' | 'h') => self.mode = Mode::Help(0),
            Key::Up | Key::Character('k') => self.scroll(|first| first.saturating_sub(1)),
            Key::Down | Key::Character('j') => self.scroll(|first| first.saturating_add(1)),
            Key::PageUp => self.scroll(|first| first.saturating_sub(page.max(1))),
            Key::PageDown => self.scroll(|first| first.saturating_add(page.max(1))),
            Key::Home => self.scroll(|_| 0),
            Key::End => self.scroll(|_| usize::MAX),
            _ => {}
        }
        Next::Stay
    }

    /// Every table by its filter at once, from the first row on.
    fn write(&mut self, key: Key, before: String) {
        match key {
            Key::Enter => return,
            Key::Escape => {
                self.filter = before;
                return;
            }
            Key::Backspace => _ = self.filter.pop(),
            Key::Character(c) if !c.is_control() && self.filter.chars().count() < FILTER_MAX => self.filter.push(c),
            _ => {}
        }
        self.choices.iter_mut().for_each(|choice| choice.first = 0);
        self.mode = Mode::Filter(before);
    }

    fn read(&mut self, key: Key, line: usize, page: usize) {
        let line = match key {
            Key::Up | Key::Character('k') => line.saturating_sub(1),
            Key::Down | Key::Character('j') => line + 1,
            Key::PageUp => line.saturating_sub(page.max(1)),
            Key::PageDown => line + page.max(1),
            Key::Home => 0,
            // Help about another table.
            Key::Character(digit @ '1'..='3') => {
                self.tab = Tab::ALL[digit as usize - '1' as usize];
                0
            }
            _ => return,
        };
        self.mode = Mode::Help(line);
    }

    fn turn(&mut self, by: usize) {
        self.tab = Tab::ALL[(self.tab as usize + by) % Tab::ALL.len()];
    }

    /// Another column sorts, by its nature at first.
    fn next_sort(&mut self, by: usize) {
        let count = self.tab.columns().len();
        let choice = self.choice();
        *choice = Choice { sort: (choice.sort + by) % count, reversed: false, first: 0 };
    }

    fn scroll(&mut self, to: impl FnOnce(usize) -> usize) {
        let choice = self.choice();
        choice.first = to(choice.first);
    }

    fn choice(&mut self) -> &mut Choice {
        &mut self.choices[self.tab as usize]
    }

    /// What of the reading is seen, on a terminal of so many columns or on paper.
    #[must_use]
    pub fn page(&self, reading: &Reading, rows: usize, columns: Option<usize>) -> Page {
        let Choice { sort, reversed, first } = self.choices[self.tab as usize];
        let wish = Wish { sort, reversed, filter: &self.filter, first, rows, columns };
        match self.tab {
            Tab::Listeners => Page::of(&LISTENERS, reading.listeners.all(), wish),
            Tab::Workloads => Page::of(&WORKLOADS, reading.workloads.all(), wish),
            Tab::Namespaces => Page::of(&NAMESPACES, reading.namespaces.all(), wish),
        }
    }

    /// Remembers where the page or the help really began, so that the next key goes on from there.
    pub fn settle(&mut self, first: usize) {
        match &mut self.mode {
            Mode::Help(line) => *line = first,
            _ => self.choice().first = first,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(screen: &mut Screen, keys: &str) {
        for c in keys.chars() {
            assert_eq!(screen.press(Key::Character(c), 10), Next::Stay, "{c}");
        }
    }

    fn sorted(screen: &Screen) -> (&'static str, bool) {
        let choice = screen.choices[screen.tab as usize];
        (screen.tab.columns()[choice.sort].0, choice.reversed)
    }

    #[test]
    fn tables_are_chosen_by_number_and_in_turn() {
        let mut screen = Screen::default();
        press(&mut screen, "3");
        assert_eq!(screen.tab, Tab::Namespaces);
        screen.press(Key::Tab, 10);
        assert_eq!(screen.tab, Tab::Listeners);
        screen.press(Key::BackTab, 10);
        assert_eq!(screen.tab, Tab::Namespaces);
    }

    #[test]
    fn each_table_has_an_order_of_its_own() {
        let mut screen = Screen::default();
        assert_eq!(sorted(&screen), ("drops/s", false));
        press(&mut screen, "r");
        assert_eq!(sorted(&screen), ("drops/s", true));
        screen.press(Key::Right, 10);
        assert_eq!(sorted(&screen), ("accept/s", false));
        screen.press(Key::Left, 10);
        press(&mut screen, "ssss");
        assert_eq!(sorted(&screen), ("process", false), "after the last column comes the first");
        press(&mut screen, "2");
        assert_eq!(sorted(&screen), ("share", false));
        assert!(screen.sort_by("retrans") && !screen.sort_by("drops"));
        assert_eq!(sorted(&screen), ("retrans", false));
    }

    #[test]
    fn a_filter_is_written_kept_and_given_up() {
        let mut screen = Screen::default();
        press(&mut screen, "/nginq");
        assert_eq!((screen.filter.as_str(), &screen.mode), ("nginq", &Mode::Filter(String::new())));
        screen.press(Key::Backspace, 10);
        screen.press(Key::Enter, 10);
        assert_eq!((screen.filter.as_str(), &screen.mode), ("ngin", &Mode::Table));
        press(&mut screen, "/x\u{7}");
        assert_eq!(screen.filter, "nginx");
        screen.press(Key::Escape, 10);
        assert_eq!((screen.filter.as_str(), &screen.mode), ("ngin", &Mode::Table));
        press(&mut screen, "/");
        press(&mut screen, &"x".repeat(200));
        assert_eq!(screen.filter.len(), FILTER_MAX);
    }

    #[test]
    fn escape_leaves_one_thing_at_a_time() {
        let mut screen = Screen::default();
        press(&mut screen, "?");
        assert_eq!(screen.press(Key::Escape, 10), Next::Stay);
        assert_eq!(screen.mode, Mode::Table);
        assert_eq!(screen.press(Key::Escape, 10), Next::Quit);
        assert_eq!(screen.press(Key::Character('q'), 10), Next::Quit);
        press(&mut screen, "/q");
        assert_eq!(screen.filter, "q", "within the filter it is a letter");
        assert_eq!(screen.press(Key::Interrupt, 10), Next::Quit, "whatever is under way");
    }

    #[test]
    fn one_scrolls_from_where_the_page_really_is() {
        let mut screen = Screen::default();
        screen.press(Key::End, 10);
        assert_eq!(screen.choices[0].first, usize::MAX);
        screen.settle(30);
        screen.press(Key::PageUp, 10);
        screen.press(Key::Down, 10);
        assert_eq!(screen.choices[0].first, 21);
        press(&mut screen, "/a");
        assert_eq!(screen.choices[0].first, 0, "what matches is seen from its beginning");
    }

    #[test]
    fn a_pause_ends_as_it_began() {
        let mut screen = Screen::default();
        press(&mut screen, "p");
        assert!(screen.paused);
        press(&mut screen, "p");
        assert!(!screen.paused);
    }
}
