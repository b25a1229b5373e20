//! What `tracer top` shows: the text of `/metrics` reduced to rows ([`reading`]), rates between two of them
//! ([`rates`]), the tables and their columns ([`column`]), what was chosen by keys ([`screen`]), and the
//! part of a table that is seen ([`page`]), drawn on a terminal ([`draw`]) or written once ([`plain`]).
//!
//! Pure: texts, times and keys are handed in by [`crate::command::top`], and nothing here knows a terminal but
//! `draw`, which fills the frame that it is given. Every text that somebody else chose goes through
//! [`crate::legible::legible`] on its way in.

pub mod column;
pub mod draw;
pub mod header;
pub mod page;
pub mod plain;
pub mod rates;
pub mod reading;
pub mod rows;
pub mod screen;
pub mod text;

/// How a piece of text is meant, whatever colours there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// Of less interest.
    Faint,
    /// What the eye shall find.
    Strong,
    /// As it should be.
    Good,
    /// Near a limit.
    Warn,
    /// At a limit, or beyond.
    Bad,
}
