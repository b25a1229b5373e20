//! Fills a frame: header, tabs, table, and what the keys are; or help. The only file that knows what a terminal is
//! made of, and it knows no terminal.
//!
//! Small terminals lose the header's lines first, then the line of keys; the table keeps what is left.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{
    Tone,
    header::{self, Piece, Source},
    page::{Cell, Page},
    reading::Reading,
    screen::{Mode, Screen, Tab},
    text::{cut, width},
};
use crate::legible::legible;

const KEYS: &str = "1-3 table  ←→ sort  r reverse  / filter  p pause  ? help  q quit";

const HELP: &[(&str, &str)] = &[
    ("1 2 3, Tab", "another table"),
    ("← →, s, S", "sort by another column"),
    ("r", "reverse the order"),
    ("/", "show rows with a text in any of their names; Enter keeps it, Escape gives it up"),
    ("↑ ↓, PgUp, PgDn, Home, End", "move in the table"),
    ("p, blank", "stand still; what is shown ages meanwhile"),
    ("?, h", "this page"),
    ("q, Escape, Ctrl-C", "leave"),
    ("Ctrl-Z", "stop, as any job of the shell; fg goes on"),
];

/// What is drawn.
pub struct Scene<'a> {
    /// What was chosen.
    pub screen: &'a Screen,
    /// What is known.
    pub reading: &'a Reading,
    /// From where, and how old.
    pub source: &'a Source,
    /// Whether colours may be used.
    pub color: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drawn {
    /// The first row or line that is seen.
    pub first: usize,
    /// How many there was room for.
    pub rows: usize,
}

/// Fills the frame.
pub fn draw(frame: &mut Frame<'_>, scene: &Scene<'_>) -> Drawn {
    match scene.screen.mode {
        Mode::Help(line) => help(frame, scene, line),
        _ => table(frame, scene),
    }
}

fn table(frame: &mut Frame<'_>, scene: &Scene<'_>) -> Drawn {
    let area = frame.area();
    let columns = usize::from(area.width);
    let height = usize::from(area.height);
    let mut top = Vec::new();
    let [totals, trust, who] = header::lines(scene.reading, scene.source);
    // Who, totals, trust; but if there is little room the most important alone.
    match height {
        0..8 => {}
        8..12 => top.push(totals),
        _ => top.extend([who, totals, trust]),
    }
    if let Some(text) = header::trouble(scene.source) {
        // Cause and remedy take two lines of a usual terminal.
        let lines = wrap(&text, columns).into_iter().take(if height < 12 { 1 } else { 2 });
        top.extend(lines.map(|text| vec![(text, Tone::Bad)]));
    }
    if height >= 5 {
        top.push(tabs(scene));
    }
    let bottom = usize::from(height >= 6 || matches!(scene.screen.mode, Mode::Filter(_)));
    let rows = height.saturating_sub(top.len() + bottom + 1);
    let page = scene.screen.page(scene.reading, rows, Some(columns));
    let mut lines: Vec<Line<'_>> = top.iter().map(|pieces| line(pieces, columns, scene.color)).collect();
    lines.push(head(&page, scene.color));
    lines.extend(page.rows.iter().map(|cells| row(cells, scene.color)));
    if page.matching == 0 && rows > 0 {
        lines.push(line(&[(empty(&page), Tone::Faint)], columns, scene.color));
    }
    frame.render_widget(
        Paragraph::new(lines),
        Rect { height: area.height.saturating_sub(u16::from(bottom > 0)), ..area },
    );
    if bottom > 0 && height > 0 {
        let at = Rect { y: area.bottom() - 1, height: 1, ..area };
        frame.render_widget(line(&footer(scene, &page), columns, scene.color), at);
    }
    Drawn { first: page.first, rows }
}

/// Why a table has no rows.
fn empty(page: &Page) -> String {
    match page.total {
        0 => "nothing here".to_owned(),
        total => format!("none of {total} has this text; / and Escape bring them back"),
    }
}

fn tabs(scene: &Scene<'_>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (number, tab) in (1..).zip(Tab::ALL) {
        let text = format!(" {number} {} {} ", tab.name(), tab.rows(scene.reading));
        pieces.push((text, if tab == scene.screen.tab { Tone::Strong } else { Tone::Plain }));
    }
    if scene.screen.paused {
        pieces.push((" PAUSED, p goes on ".to_owned(), Tone::Warn));
    }
    pieces
}

fn footer(scene: &Scene<'_>, page: &Page) -> Vec<Piece> {
    let filter = legible(&scene.screen.filter);
    if matches!(scene.screen.mode, Mode::Filter(_)) {
        let text = format!("filter: {filter}▏ {} of {}", page.matching, page.total);
        return vec![(text, Tone::Strong), ("  Enter keeps it, Escape gives it up".to_owned(), Tone::Faint)];
    }
    let mut pieces = Vec::new();
    if !filter.is_empty() {
        pieces.push((format!("filter: {filter} ({} of {})  ", page.matching, page.total), Tone::Strong));
    } else if page.matching > page.rows.len() {
        let last = page.first + page.rows.len();
        pieces.push((format!("{}-{last} of {}  ", page.first + 1, page.matching), Tone::Strong));
    }
    pieces.push((KEYS.to_owned(), Tone::Faint));
    pieces
}

fn help(frame: &mut Frame<'_>, scene: &Scene<'_>, first: usize) -> Drawn {
    let area = frame.area();
    let columns = usize::from(area.width).max(1);
    let mut lines = vec![Line::styled("keys", style(Tone::Strong, scene.color))];
    let tab = scene.screen.tab;
    let keys = HELP.iter().map(|(key, meaning)| (*key, *meaning));
    define(&mut lines, keys, columns, scene.color);
    lines.push(Line::default());
    let title = format!("columns of {} (1-3: of another table)", tab.name());
    lines.push(Line::styled(cut(&title, columns).into_owned(), style(Tone::Strong, scene.color)));
    define(&mut lines, tab.columns().into_iter(), columns, scene.color);
    let rows = usize::from(area.height);
    let first = first.min(lines.len().saturating_sub(rows));
    let seen: Vec<Line<'_>> = lines.into_iter().skip(first).take(rows).collect();
    frame.render_widget(Paragraph::new(seen), area);
    Drawn { first, rows }
}

/// Words with their meanings beside or, where it is narrow, below them.
fn define<'a>(lines: &mut Vec<Line<'a>>, words: impl Iterator<Item = (&'a str, &'a str)>, columns: usize, color: bool) {
    const WORD: usize = 28;
    let indent = if columns >= 2 * WORD { WORD } else { 2 };
    for (word, meaning) in words {
        let mut begun = format!("  {word}");
        if width(&begun) >= indent {
            lines.push(Line::styled(begun, style(Tone::Good, color)));
            begun = String::new();
        }
        for text in wrap(meaning, columns.saturating_sub(indent)) {
            let word = format!("{begun}{}", " ".repeat(indent.saturating_sub(width(&begun))));
            lines.push(Line::from(vec![Span::styled(word, style(Tone::Good, color)), Span::raw(text)]));
            begun = String::new();
        }
    }
}

/// Lines of at most so many columns, broken between words, and within those that are longer.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let parts = text.split_whitespace().flat_map(|word| {
        let letters: Vec<char> = word.chars().collect();
        letters.chunks(columns.max(1)).map(|part| part.iter().collect::<String>()).collect::<Vec<_>>()
    });
    for word in parts {
        match lines.last_mut().filter(|line| width(line) + 1 + width(&word) <= columns) {
            Some(line) => {
                line.push(' ');
                line.push_str(&word);
            }
            None => lines.push(word),
        }
    }
    lines
}

/// Pieces as one line, cut with an ellipsis where the terminal ends.
fn line(pieces: &[Piece], columns: usize, color: bool) -> Line<'static> {
    let mut left = columns;
    let mut spans = Vec::new();
    for (text, tone) in pieces {
        let shown = cut(text, left).into_owned();
        let is_cut = shown.len() != text.len();
        left -= width(&shown).min(left);
        spans.push(Span::styled(shown, style(*tone, color)));
        if is_cut {
            break;
        }
    }
    Line::from(spans)
}

fn head(page: &Page, color: bool) -> Line<'static> {
    let mut spans = Vec::new();
    for cell in &page.head {
        let plain = Style::new().add_modifier(Modifier::REVERSED);
        let style = if cell.tone == Tone::Strong { style(Tone::Strong, color).patch(plain) } else { plain };
        spans.push(Span::styled(cell.text.clone(), style));
        spans.push(Span::styled(" ", plain));
    }
    spans.pop();
    Line::from(spans)
}

fn row(cells: &[Cell], color: bool) -> Line<'static> {
    let mut spans = Vec::new();
    for cell in cells {
        spans.push(Span::styled(cell.text.clone(), style(cell.tone, color)));
        spans.push(Span::raw(" "));
    }
    spans.pop();
    Line::from(spans)
}

/// How a tone looks. Without colours what matters stays bold, and what is at its limit underlined too.
fn style(tone: Tone, color: bool) -> Style {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    match (tone, color) {
        (Tone::Plain, _) | (Tone::Good, false) => Style::new(),
        (Tone::Faint, _) => Style::new().add_modifier(Modifier::DIM),
        (Tone::Strong, _) | (Tone::Warn, false) => bold,
        (Tone::Good, true) => Style::new().fg(Color::Green),
        (Tone::Warn, true) => Style::new().fg(Color::Yellow),
        (Tone::Bad, true) => bold.fg(Color::Red),
        (Tone::Bad, false) => bold.add_modifier(Modifier::UNDERLINED),
    }
}

#[cfg(test)]
mod tests;
