//! Frames on a backend that only remembers.

use std::fmt::Write as _;
use std::time::Duration;

use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};

use super::*;
use crate::top::header::Trouble;
use crate::top::screen::{Key, Next};

/// Listeners 8000, 8001 and so on, with as many drops as their place.
fn reading(listeners: u16) -> Reading {
    let mut text = "tracer_build_info{version=\"0.1.0\"} 1\n\
        tracer_count_difference{netns=\"host\",signal=\"listen_drops\"} 0\n\
        tracer_tcp_time_wait_sockets{netns=\"host\"} 9\ntracer_tcp_time_wait_limit{netns=\"host\"} 10\n"
        .to_owned();
    for place in 0..listeners {
        let labels = format!(
            "netns=\"host\",unit=\"漢字.service\",process=\"w\x1b[31mb\",address=\"::\",port=\"{}\"",
            8000 + place
        );
        let _ = write!(
            text,
            "tracer_tcp_listen_drops_total{{{labels},reason=\"other\"}} {place}\n\
             tracer_tcp_accept_queue_length{{{labels}}} {}\ntracer_tcp_accept_queue_limit{{{labels}}} 128\n",
            if place == 0 { 129 } else { 0 }
        );
    }
    Reading::parse(&text, Duration::ZERO).unwrap()
}

fn frame(screen: &Screen, reading: &Reading, source: &Source, color: bool, size: (u16, u16)) -> (Buffer, Drawn) {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    let mut drawn = Drawn::default();
    terminal.draw(|frame| drawn = draw(frame, &Scene { screen, reading, source, color })).unwrap();
    (terminal.backend().buffer().clone(), drawn)
}

fn rows(buffer: &Buffer) -> Vec<String> {
    let columns = usize::from(buffer.area.width);
    let lines = buffer.content.chunks(columns).map(|cells| cells.iter().map(ratatui::buffer::Cell::symbol).collect());
    lines.map(|line: String| line.trim_end().to_owned()).collect()
}

fn shown(screen: &Screen, listeners: u16, size: (u16, u16)) -> Vec<String> {
    rows(&frame(screen, &reading(listeners), &Source::default(), true, size).0)
}

#[test]
fn a_usual_terminal_shows_header_tabs_table_and_keys() {
    let lines = shown(&Screen::default(), 3, (80, 24));
    assert!(lines[0].starts_with("tracer 0.1.0 · "), "{lines:#?}");
    assert!(lines[1].starts_with("drops 3 (–/s) · "), "{lines:#?}");
    assert!(lines[2].starts_with("numbers close · nothing lost"), "{lines:#?}");
    assert_eq!(lines[3], " 1 listeners 3  2 workloads 0  3 namespaces 1");
    assert!(
        lines[4].starts_with("listener") && lines[4].contains("full") && lines[4].ends_with("drops/s▾"),
        "{lines:#?}"
    );
    assert!(lines[5].starts_with("[::]:8000") && lines[5].contains("129/128    100%"), "the fullest first: {lines:#?}");
    assert_eq!(lines[23], KEYS);
    assert!(lines[8..23].iter().all(String::is_empty), "{lines:#?}");
}

#[test]
fn every_size_can_be_drawn_and_the_table_stays_longest() {
    for height in 1..30 {
        for columns in [1, 2, 5, 20, 40, 80, 200] {
            let lines = shown(&Screen::default(), 3, (columns, height));
            assert_eq!(lines.len(), usize::from(height));
        }
    }
    let lines = shown(&Screen::default(), 3, (40, 4));
    assert!(lines[0].starts_with("listener") && lines[1].starts_with("[::]:8000"), "{lines:#?}");
    let lines = shown(&Screen::default(), 3, (60, 8));
    assert!(lines[0].starts_with("drops 3") && lines[2].starts_with("listener"), "{lines:#?}");
}

#[test]
fn nothing_that_a_terminal_obeys_is_drawn() {
    for mode in [Mode::Table, Mode::Help(0), Mode::Filter(String::new())] {
        let mut screen = Screen::new(Tab::Listeners, "\x1b[2J");
        screen.mode = mode;
        let (buffer, _) = frame(&screen, &reading(3), &Source::default(), true, (120, 40));
        assert!(buffer.content.iter().all(|cell| !cell.symbol().chars().any(char::is_control)));
    }
}

#[test]
fn long_tables_say_where_one_is() {
    let screen = Screen::default();
    let (buffer, drawn) = frame(&screen, &reading(100), &Source::default(), true, (80, 24));
    let lines = rows(&buffer);
    assert!(lines[23].starts_with("1-18 of 100  1-3 table"), "{lines:#?}");
    assert_eq!(drawn, Drawn { first: 0, rows: 18 });
    let mut screen = screen;
    assert_eq!(screen.press(Key::End, drawn.rows), Next::Stay);
    assert_eq!(frame(&screen, &reading(100), &Source::default(), true, (80, 24)).1.first, 82);
}

#[test]
fn a_filter_is_shown_while_it_is_written_and_after() {
    let mut screen = Screen::default();
    for key in "/:8001".chars().map(Key::Character) {
        screen.press(key, 10);
    }
    let lines = shown(&screen, 3, (80, 24));
    assert!(lines[23].starts_with("filter: :8001▏ 1 of 3"), "{lines:#?}");
    assert!(lines[5].starts_with("[::]:8001") && lines[6].is_empty(), "{lines:#?}");
    screen.press(Key::Enter, 10);
    assert!(shown(&screen, 3, (80, 24))[23].starts_with("filter: :8001 (1 of 3)  1-3 table"));
    screen.filter = "nobody".into();
    assert!(shown(&screen, 3, (80, 24))[5].starts_with("none of 3 has this text"));
}

#[test]
fn trouble_is_said_above_the_values_that_stay() {
    let trouble = Trouble { since: "12:00:00Z".into(), lasts: Duration::from_secs(7), cause: "refused".into() };
    let source = Source { trouble: Some(trouble), ..Source::default() };
    let lines = rows(&frame(&Screen::default(), &reading(3), &source, true, (80, 24)).0);
    assert_eq!(lines[3], "nothing new since 12:00:00Z (7 s), trying again: refused");
    assert!(lines[6].starts_with("[::]:8000"), "{lines:#?}");
}

#[test]
fn colours_are_used_only_where_they_may_be() {
    let has_color = |color| {
        let (buffer, _) = frame(&Screen::default(), &reading(3), &Source::default(), color, (80, 24));
        buffer.content.iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    assert!(has_color(true));
    assert!(!has_color(false));
    let (buffer, _) = frame(&Screen::default(), &reading(3), &Source::default(), false, (80, 24));
    let full = buffer.content[80 * 5..80 * 6].iter().find(|cell| cell.modifier.contains(Modifier::UNDERLINED));
    assert!(full.is_some(), "what is at its limit is still told apart");
}

#[test]
fn help_explains_every_column_at_every_width() {
    for columns in [30, 80, 160] {
        let mut screen = Screen::new(Tab::Workloads, "");
        screen.mode = Mode::Help(0);
        let lines = shown(&screen, 3, (columns, 200));
        let text = lines.join(" ");
        let letters: String = text.split_whitespace().collect();
        for (title, meaning) in Tab::Workloads.columns() {
            assert!(text.contains(title), "{title}");
            let meaning: String = meaning.split_whitespace().collect();
            assert!(letters.contains(&meaning), "{columns}: {meaning}\n{text}");
        }
        assert!(lines.iter().all(|line| width(line) <= usize::from(columns)));
    }
    let mut screen = Screen::default();
    screen.mode = Mode::Help(999);
    let (_, drawn) = frame(&screen, &reading(1), &Source::default(), true, (80, 10));
    assert!(drawn.first > 0 && drawn.first < 100, "one cannot scroll beyond the end: {drawn:?}");
}
