//! Columns of text.

use crate::cli::paint::{Paint, Tone};

/// Rows below a heading; columns are as wide as their widest cell.
#[derive(Debug, Clone)]
pub struct Table {
    heading: Vec<Cell>,
    rows: Vec<Vec<Cell>>,
}

/// A text and its tone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A text in a tone. What is empty shows as a dash, so that columns can be told apart (and cut).
    pub fn new(tone: Tone, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { text: if text.is_empty() { "-".to_owned() } else { text }, tone }
    }

    /// A text in no particular tone.
    pub fn plain(text: impl Into<String>) -> Self {
        Self::new(Tone::Plain, text)
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl Table {
    /// An empty one.
    pub fn new(heading: &[&str]) -> Self {
        let heading = heading.iter().map(|&title| Cell::new(Tone::Strong, title)).collect();
        Self { heading, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The table as text, each line ended; the last column is not padded.
    pub fn render(&self, paint: Paint) -> String {
        let lines = || std::iter::once(&self.heading).chain(&self.rows);
        let widths: Vec<usize> = (0..self.heading.len())
            .map(|column| lines().filter_map(|line| line.get(column)).map(Cell::width).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for line in lines() {
            let last = line.len().saturating_sub(1);
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                text.push_str(&paint.paint(cell.tone, &cell.text));
                if column < last {
                    text.push_str(&" ".repeat(width - cell.width() + 2));
                }
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NODE", "PHASE"]);
        table.row(vec![Cell::plain("a-long-name"), Cell::new(Tone::Good, "raised")]);
        table.row(vec![Cell::plain("b"), Cell::plain("")]);
        table
    }

    #[test]
    fn columns_stand_below_one_another_and_nothing_trails() {
        assert_eq!(table().render(Paint::OFF), "NODE         PHASE\na-long-name  raised\nb            -\n");
    }

    #[test]
    fn colour_does_not_move_a_column() {
        let painted = table().render(Paint::ON);
        assert!(painted.contains("\u{1b}["));
        let mut plain = String::new();
        let mut escape = false;
        for c in painted.chars() {
            match (escape, c) {
                (false, '\u{1b}') => escape = true,
                (true, 'm') => escape = false,
                (false, c) => plain.push(c),
                (true, _) => {}
            }
        }
        assert_eq!(plain, table().render(Paint::OFF));
    }
}
