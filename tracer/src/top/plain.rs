//! One screen as text, for scripts and for paper: every column in full, no colours, nothing that a terminal obeys.

use std::io::{self, Write};

use super::{
    header::{self, Piece, Source},
    page::Cell,
    reading::Reading,
    screen::{Screen, Tab},
};

/// Writes the header and the given tables with at most `rows` rows each.
pub fn write(
    out: &mut impl Write,
    screens: &[Screen],
    reading: &Reading,
    source: &Source,
    rows: usize,
) -> io::Result<()> {
    let [totals, trust, who] = header::lines(reading, source);
    for line in [who, totals, trust] {
        writeln!(out, "{}", text(&line))?;
    }
    for screen in screens {
        table(out, screen, reading, rows)?;
    }
    Ok(())
}

fn table(out: &mut impl Write, screen: &Screen, reading: &Reading, rows: usize) -> io::Result<()> {
    let page = screen.page(reading, rows, None);
    writeln!(out)?;
    let matching = if screen.filter.is_empty() {
        String::new()
    } else {
        format!(" with \"{}\"", crate::legible::legible(&screen.filter))
    };
    writeln!(out, "{}: {}{matching}", screen.tab.name(), page.matching)?;
    if page.matching == 0 {
        return Ok(());
    }
    writeln!(out, "{}", line(&page.head))?;
    for row in &page.rows {
        writeln!(out, "{}", line(row))?;
    }
    match page.matching - page.rows.len() {
        0 => Ok(()),
        more => writeln!(out, "and {more} more; see --rows"),
    }
}

fn text(pieces: &[Piece]) -> String {
    pieces.iter().map(|(text, _)| text.as_str()).collect()
}

fn line(cells: &[Cell]) -> String {
    let cells: Vec<&str> = cells.iter().map(|cell| cell.text.as_str()).collect();
    // Two blanks, so that scripts can tell columns from names that hold one; no cell is empty.
    cells.join("  ").trim_end().to_owned()
}

/// Every table as it is sorted at first, with a filter.
#[must_use]
pub fn every_table(filter: &str) -> Vec<Screen> {
    Tab::ALL.map(|tab| Screen::new(tab, filter)).into()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_table_is_whole_lines_without_what_a_terminal_obeys() {
        let labels = |port: u16| {
            format!("netns=\"host\",unit=\"web.service\",process=\"w\x1b[0meb\",address=\"::\",port=\"{port}\"")
        };
        let mut text = "tracer_build_info{version=\"0.1.0\"} 1\n".to_owned();
        for port in 80..90 {
            let _ = writeln!(text, "tracer_tcp_listen_drops_total{{{},reason=\"other\"}} {port}", labels(port));
        }
        let reading = Reading::parse(&text, Duration::ZERO).unwrap();
        let mut out = Vec::new();
        write(&mut out, &every_table(""), &reading, &Source::default(), 3).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(!out.contains('\x1b'), "{out}");
        let at = out.lines().position(|line| line == "listeners: 10").unwrap();
        let rows: Vec<&str> = out.lines().skip(at + 1).take(5).collect();
        assert!(rows[0].starts_with("listener   process") && rows[0].contains("drops/s▾"), "{out}");
        assert!(rows[1].starts_with("[::]:89    w\u{FFFD}[0meb   web.service  host"), "{out}");
        assert_eq!(rows[4], "and 7 more; see --rows");
        assert!(out.contains("\n\nworkloads: 0\n\nnamespaces: 1\n"), "{out}");
    }
}
