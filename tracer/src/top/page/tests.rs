//! Order, filter and fit of a table's part.

use super::*;
use crate::top::column::{LISTENERS, WORKLOADS};
use crate::top::rows::{Listener, Owner, Tally, Workload};

fn listener(address: &str, process: &str, queue: Option<f64>, drops: Option<f64>, rate: Option<f64>) -> Listener {
    Listener {
        address: address.into(),
        process: process.into(),
        queue,
        queue_limit: Some(9.0),
        drops: Tally { total: drops, rate },
        ..Listener::default()
    }
}

fn listeners() -> Vec<Listener> {
    vec![
        listener("0.0.0.0:80", "nginx", Some(5.0), Some(3.0), Some(0.0)),
        listener("0.0.0.0:81", "nginx", Some(10.0), Some(7.0), Some(0.0)),
        listener("0.0.0.0:82", "Envoy", None, None, None),
        listener("0.0.0.0:83", "redis", Some(0.0), Some(1.0), Some(2.0)),
    ]
}

fn wish(sort: &str) -> Wish<'static> {
    let sort = LISTENERS.position(sort).unwrap();
    Wish { sort, reversed: false, filter: "", first: 0, rows: 10, columns: None }
}

fn ports(page: &Page) -> String {
    page.rows.iter().map(|row| row[0].text.trim_end().rsplit_once(':').unwrap().1).collect::<Vec<_>>().join(" ")
}

fn of(wish: Wish<'_>) -> Page {
    Page::of(&LISTENERS, &listeners(), wish)
}

#[test]
fn rows_stand_in_the_chosen_order_and_the_unknown_last() {
    assert_eq!(ports(&of(wish("drops/s"))), "83 81 80 82", "equals by saturation");
    assert_eq!(ports(&of(wish("full"))), "81 80 83 82");
    assert_eq!(ports(&of(Wish { reversed: true, ..wish("full") })), "83 80 81 82");
    assert_eq!(ports(&of(wish("listener"))), "80 81 82 83");
    assert_eq!(ports(&of(Wish { reversed: true, ..wish("listener") })), "83 82 81 80");
}

#[test]
fn the_heading_that_sorts_is_marked() {
    let head = |wish| of(wish).head.into_iter().find(|cell| cell.tone == Tone::Strong).unwrap().text;
    assert_eq!(head(wish("drops")).trim(), "drops▾");
    assert_eq!(head(Wish { reversed: true, ..wish("drops") }).trim(), "drops▴");
    assert_eq!(head(wish("process")).trim(), "process▴");
}

#[test]
fn a_filter_keeps_rows_that_have_the_text_in_any_name() {
    let page = of(Wish { filter: "ENVOY", ..wish("full") });
    assert_eq!((ports(&page).as_str(), page.matching, page.total), ("82", 1, 4));
    assert_eq!(ports(&of(Wish { filter: ":8", ..wish("listener") })), "80 81 82 83");
    assert_eq!(of(Wish { filter: "nobody", ..wish("full") }).matching, 0);
}

#[test]
fn a_page_begins_where_it_can_be_filled() {
    let page = of(Wish { first: 1, rows: 2, ..wish("listener") });
    assert_eq!((ports(&page).as_str(), page.first), ("81 82", 1));
    let page = of(Wish { first: 99, rows: 2, ..wish("listener") });
    assert_eq!((ports(&page).as_str(), page.first), ("82 83", 2));
    assert_eq!(of(Wish { rows: 0, ..wish("listener") }).rows.len(), 0);
}

#[test]
fn columns_give_way_by_their_priority_and_the_one_that_sorts_last() {
    let titles = |columns, sort| {
        let head = of(Wish { columns: Some(columns), ..wish(sort) }).head;
        head.iter().map(|cell| cell.text.trim().trim_matches(['▾', '▴']).to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        titles(200, "full"),
        "listener process owner netns queue full peak syn queue drops drops/s accept/s reason"
    );
    assert_eq!(titles(80, "full"), "listener process queue full drops drops/s");
    assert_eq!(titles(80, "reason"), "listener full drops drops/s reason");
    assert_eq!(titles(50, "full"), "listener full drops drops/s");
    assert_eq!(titles(24, "drops/s"), "listener drops/s");
    assert_eq!(titles(10, "drops"), "listener");
}

#[test]
fn a_page_is_as_wide_as_the_terminal_and_its_columns_stand_below_each_other() {
    for columns in 1..220 {
        let page = of(Wish { columns: Some(columns), ..wish("drops/s") });
        let width_of = |cells: &[Cell]| cells.iter().map(|cell| width(&cell.text) + GAP).sum::<usize>() - GAP;
        let taken = width_of(&page.head);
        assert!(taken <= columns, "{taken} of {columns}");
        assert!(page.rows.iter().all(|row| width_of(row) == taken), "{columns}");
        if columns >= 50 {
            assert_eq!(taken, columns, "what is left over is used");
        }
    }
}

#[test]
fn long_names_are_cut_with_an_ellipsis() {
    let owner = Owner { name: "production/checkout-7d9f8b6c5d-x2x9z/application".into(), ..Owner::default() };
    let rows = [Workload { owner, ..Workload::default() }];
    let wish = Wish { sort: 0, reversed: false, filter: "", first: 0, rows: 1, columns: Some(60) };
    let page = Page::of(&WORKLOADS, &rows, wish);
    assert!(page.rows[0][0].text.ends_with('…'), "{page:?}");
    let paper = Page::of(&WORKLOADS, &rows, Wish { columns: None, ..wish });
    assert_eq!(paper.rows[0][0].text, "production/checkout-7d9f8b6c5d-x2x9z/application");
}

#[test]
fn numbers_stand_right_and_have_their_tone() {
    let page = of(wish("full"));
    let full = LISTENERS.position("full").unwrap();
    assert_eq!((page.rows[0][full].text.as_str(), page.rows[0][full].tone), (" 100%", Tone::Bad));
    assert_eq!(page.rows[3][full].text, "    –");
}

#[test]
fn what_is_nobodys_is_shown_once_something_was_counted() {
    let rows =
        |drops| vec![listener("0.0.0.0:80", "nginx", Some(5.0), Some(0.0), None), listener("", "", None, drops, None)];
    let seen = |drops| {
        let page = Page::of(&LISTENERS, &rows(drops), wish("full"));
        (page.rows.len(), page.total)
    };
    assert_eq!([seen(None), seen(Some(0.0)), seen(Some(2.0))], [(1, 1), (1, 1), (2, 2)]);
    let workload = |name: &str, established| Workload {
        owner: Owner { name: name.into(), ..Owner::default() },
        established,
        ..Workload::default()
    };
    for (of, is_shown) in
        [(workload("", Some(0.0)), false), (workload("", Some(1.0)), true), (workload("a", None), true)]
    {
        assert_eq!(of.is_shown(), is_shown, "{of:?}");
    }
}
