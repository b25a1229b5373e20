//! The part of a table that is seen: rows that match the filter, in the chosen order, as many as there is room
//! for, in the columns that fit.

use std::cmp::Ordering;

use super::{
    Tone,
    column::{Column, Table, Value},
    text::{cut, fit, width},
};

/// Blanks between two columns.
const GAP: usize = 1;
/// Of a name so much is seen at least while there is another column.
const NAME_WIDTH_MIN: usize = 8;
/// A name on paper is cut here: a line shall stay readable.
const PAPER_WIDTH_MAX: usize = 60;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The column that sorts.
    pub sort: usize,
    /// Whether against its nature: numbers from the smallest, names from Z.
    pub reversed: bool,
    /// Text that a row must have.
    pub filter: &'a str,
    /// The first row that is seen.
    pub first: usize,
    /// Rows that there is room for.
    pub rows: usize,
    /// Columns of the terminal; none if every column shall be seen in full.
    pub columns: Option<usize>,
}

/// A cell as it is shown, as wide as its column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Its text.
    pub text: String,
    /// How it is meant.
    pub tone: Tone,
}

/// What is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Headings; the one that sorts is strong and marked.
    pub head: Vec<Cell>,
    /// Rows.
    pub rows: Vec<Vec<Cell>>,
    /// The first row that is seen, which may be less than what was asked for.
    pub first: usize,
    /// Rows that match the filter.
    pub matching: usize,
    /// All rows.
    pub total: usize,
}

impl Page {
    /// The part of `rows` that is asked for.
    #[must_use]
    pub fn of<R: Default>(table: &Table<R>, rows: &[R], wish: Wish<'_>) -> Self {
        let needle = wish.filter.to_lowercase();
        let shown = || rows.iter().filter(|row| (table.is_shown)(row));
        let mut found: Vec<&R> = shown().filter(|row| needle.is_empty() || has(table, row, &needle)).collect();
        sort(table, &mut found, wish);
        let first = wish.first.min(found.len().saturating_sub(wish.rows));
        let seen = &found[first..found.len().min(first.saturating_add(wish.rows))];
        let columns = match wish.columns {
            Some(columns) => on_screen(table, wish.sort, columns),
            None => on_paper(table, seen),
        };
        Self {
            head: columns
                .iter()
                .map(|(at, width)| heading(&table.columns[*at], *width, *at == wish.sort, wish))
                .collect(),
            rows: seen.iter().map(|row| line(table, row, &columns)).collect(),
            first,
            matching: found.len(),
            total: shown().count(),
        }
    }
}

/// Whether a name in the row, seen or not, has the text.
fn has<R>(table: &Table<R>, row: &R, needle: &str) -> bool {
    table.columns.iter().any(|column| match (column.value)(row) {
        Value::Text(text) => text.to_lowercase().contains(needle),
        _ => false,
    })
}

fn sort<R>(table: &Table<R>, rows: &mut [&R], wish: Wish<'_>) {
    rows.sort_by(|a, b| {
        let orders = table.sorters(wish.sort).enumerate().map(|(place, column)| {
            let reversed = wish.reversed && place == 0;
            compare((column.value)(a), (column.value)(b), reversed)
        });
        orders.into_iter().find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    });
}

/// Names from A, numbers from the largest; what is not known comes last in either direction.
fn compare(a: Value<'_>, b: Value<'_>, reversed: bool) -> Ordering {
    let (known, order) = if let (Value::Text(a), Value::Text(b)) = (a, b) {
        (a.is_empty().cmp(&b.is_empty()), a.cmp(b))
    } else {
        let (a, b) = (a.number(), b.number());
        let order = b.zip(a).and_then(|(b, a)| b.partial_cmp(&a)).unwrap_or(Ordering::Equal);
        (a.is_none().cmp(&b.is_none()), order)
    };
    known.then(if reversed { order.reverse() } else { order })
}

/// The columns that fit, with their widths. Those of the highest priority numbers give way, of equals the rightmost; last
/// the one that sorts, before which the first one shrinks.
fn on_screen<R>(table: &Table<R>, sort: usize, room: usize) -> Vec<(usize, usize)> {
    let mut columns: Vec<(usize, usize)> = table.columns.iter().map(|column| column.width).enumerate().collect();
    let taken = |columns: &[(usize, usize)]| columns.iter().map(|(_, width)| width + GAP).sum::<usize>() - GAP;
    // The first column says whose a row is.
    let rank = |at: usize| match at {
        0 => None,
        at if at == sort => Some(0),
        at => Some(table.columns[at].priority + 1),
    };
    let spare = |count: usize| if count == 2 { table.columns[0].width.saturating_sub(NAME_WIDTH_MIN) } else { 0 };
    while columns.len() > 1 && taken(&columns) > room + spare(columns.len()) {
        let Some((place, _)) = columns.iter().enumerate().max_by_key(|(_, (at, _))| rank(*at)) else { break };
        columns.remove(place);
    }
    let over = taken(&columns).saturating_sub(room);
    let left = room.saturating_sub(taken(&columns));
    let growing = columns.iter().filter(|(at, _)| table.columns[*at].grows).count();
    for (turn, (_, width)) in columns.iter_mut().filter(|(at, _)| table.columns[*at].grows).enumerate() {
        // The first takes what cannot be divided.
        *width += left / growing + if turn == 0 { left % growing } else { 0 };
    }
    if let Some((_, width)) = columns.first_mut() {
        *width = width.saturating_sub(over);
    }
    columns
}

/// Every column, as wide as what stands in it.
fn on_paper<R>(table: &Table<R>, rows: &[&R]) -> Vec<(usize, usize)> {
    let widths = table.columns.iter().map(|column| {
        let widest = rows.iter().map(|row| width(&(column.value)(row).show())).max().unwrap_or(0);
        // The heading has a mark beside it if it sorts.
        widest.min(PAPER_WIDTH_MAX).max(width(column.title) + 1)
    });
    widths.enumerate().collect()
}

fn heading<R: Default>(column: &Column<R>, columns: usize, sorts: bool, wish: Wish<'_>) -> Cell {
    let is_text = (column.value)(&R::default()).is_text();
    // Names rise by nature, numbers fall.
    let mark = if sorts { if is_text == wish.reversed { "▾" } else { "▴" } } else { "" };
    let title = cut(column.title, columns.saturating_sub(width(mark)));
    let text = fit(&format!("{title}{mark}"), columns, !is_text);
    Cell { text, tone: if sorts { Tone::Strong } else { Tone::Plain } }
}

fn line<R>(table: &Table<R>, row: &R, columns: &[(usize, usize)]) -> Vec<Cell> {
    let cells = columns.iter().map(|(at, width)| {
        let column = &table.columns[*at];
        let value = (column.value)(row);
        Cell { text: fit(&value.show(), *width, !value.is_text()), tone: column.alarm.tone(value.number()) }
    });
    cells.collect()
}

#[cfg(test)]
mod tests;
