//! Tables for people: aligned columns under a heading, on lines of any width or of a given width. Cells are never
//! shortened: text that is too wide for a line continues below.

use std::fmt::Write as _;

use super::paint::{Paint, plain};

/// The indent of a continuation.
const INDENT: usize = 4;

/// The narrowest useful column of text.
const NARROW: usize = 24;

/// A table of aligned columns with a heading.
pub struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

/// The layout of one column.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Column {
    index: usize,
    width: usize,
}

impl Table {
    /// Creates a table with these headings. A heading that begins with `>` aligns its column to the right.
    pub fn new(heads: &[&'static str]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        let cell = |c: String| if c.is_empty() { "-".to_owned() } else { plain(&c) };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table on lines as long as necessary. Columns in which every row is empty are left out.
    pub fn render(&self, paint: Paint) -> String {
        self.fit(paint, usize::MAX)
    }

    /// The table on lines of this width, as far as words allow. A last column that does not fit is wrapped, to the
    /// right of the others or below them; other columns that do not fit continue in a second line.
    pub fn fit(&self, paint: Paint, width: usize) -> String {
        let lines = self.lines(paint, width);
        lines.into_iter().map(|(_, line)| line + "\n").collect()
    }

    /// The same line by line, each with its row; `None` is the heading.
    pub fn lines(&self, paint: Paint, width: usize) -> Vec<(Option<usize>, String)> {
        let columns: Vec<Column> = (0..self.heads.len())
            .filter(|&c| self.is_empty() || c == 0 || self.rows.iter().any(|r| r[c] != "-"))
            .map(|index| Column { index, width: self.width(index) })
            .collect();
        let (groups, notes) = arrange(&columns, |c| !self.heads[c].starts_with('>'), width);
        let heads: Vec<&str> = self.heads.iter().map(|head| head.trim_start_matches('>')).collect();
        let mut lines = self.record(&groups, notes, width, &heads, &|cell| paint.bold(cell));
        // Text below the rows needs no heading of its own.
        if let Some(Notes::Below(_)) = notes {
            lines.truncate(groups.len());
        }
        let mut lines: Vec<(Option<usize>, String)> = lines.into_iter().map(|line| (None, line)).collect();
        for (n, row) in self.rows.iter().enumerate() {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            let record = self.record(&groups, notes, width, &cells, &|cell| paint.state(cell));
            lines.extend(record.into_iter().map(|line| (Some(n), line)));
        }
        lines
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|r| r[column].chars().count());
        cells.chain([self.heads[column].trim_start_matches('>').len()]).max().unwrap_or(0)
    }

    /// The lines of one row.
    fn record(
        &self,
        groups: &[Vec<Column>],
        notes: Option<Notes>,
        width: usize,
        cells: &[&str],
        paint: &dyn Fn(&str) -> String,
    ) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for (n, group) in groups.iter().enumerate() {
            let mut line = if n == 0 { String::new() } else { " ".repeat(INDENT) };
            for (i, column) in group.iter().enumerate() {
                let cell = cells[column.index];
                let fill = " ".repeat(column.width.saturating_sub(cell.chars().count()));
                let last = i + 1 == group.len() && !matches!(notes, Some(Notes::Beside(..)));
                let right = self.heads[column.index].starts_with('>');
                let cell = paint(cell);
                match (right, last) {
                    (true, _) => line += &(fill + &cell),
                    (false, true) => line += &cell,
                    (false, false) => line += &(cell + &fill),
                }
                if !last {
                    line += "  ";
                }
            }
            lines.push(line);
        }
        match notes {
            None => {}
            Some(Notes::Beside(index, room)) => {
                let indent = groups.iter().flatten().map(|c| c.width + 2).sum();
                for (n, part) in wrap(cells[index], room).iter().enumerate() {
                    match lines.last_mut().filter(|_| n == 0) {
                        Some(first) => *first += &paint(part),
                        None => lines.push(" ".repeat(indent) + part),
                    }
                }
            }
            Some(Notes::Below(index)) => {
                let parts = wrap(cells[index], width.saturating_sub(INDENT));
                lines.extend(parts.iter().filter(|part| *part != "-").map(|part| " ".repeat(INDENT) + part));
            }
        }
        lines
    }
}

/// The place for the text of the last column, and its column.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Notes {
    /// To the right of the others, wrapped to this width.
    Beside(usize, usize),
    /// Below the others.
    Below(usize),
}

/// Arranges columns on lines: all on one line if they fit, otherwise with the last column wrapped, otherwise as many
/// on each line as fit.
fn arrange(
    columns: &[Column],
    is_text: impl Fn(usize) -> bool,
    width: usize,
) -> (Vec<Vec<Column>>, Option<Notes>) {
    let total = |columns: &[Column]| columns.iter().map(|c| c.width.saturating_add(2)).sum::<usize>();
    if total(columns).saturating_sub(2) <= width {
        return (vec![columns.to_vec()], None);
    }
    let mut rest = columns;
    let mut notes = None;
    if let Some((last, others)) =
        columns.split_last().filter(|(last, others)| !others.is_empty() && is_text(last.index))
    {
        rest = others;
        let room = width.saturating_sub(total(others));
        notes = Some(if room >= NARROW { Notes::Beside(last.index, room) } else { Notes::Below(last.index) });
    }
    let mut groups: Vec<Vec<Column>> = vec![Vec::new()];
    let mut used = 0;
    for &column in rest {
        if let Some(group) = groups.last_mut().filter(|g| g.is_empty() || used + column.width <= width) {
            group.push(column);
        } else {
            (used, _) = (INDENT, groups.push(vec![column]));
        }
        used += column.width + 2;
    }
    (groups, notes)
}

/// Wraps text to lines of this width between words; a word that is longer has its own line.
#[must_use]
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                let _ = write!(line, " {word}");
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Wraps a paragraph: the first line keeps its indent, the others are indented further.
#[must_use]
pub fn paragraph(text: &str, width: usize) -> String {
    let (mut out, margin) = (String::new(), text.len() - text.trim_start_matches(' ').len());
    let indent = margin + INDENT;
    // The first line has the same room as the others; a short text fits without wrapping.
    let fits = text.chars().count() <= width;
    let lines =
        if fits { vec![text.trim_start().to_owned()] } else { wrap(text, width.saturating_sub(indent)) };
    for (n, line) in lines.iter().filter(|line| !line.is_empty()).enumerate() {
        let _ = writeln!(out, "{:1$}{line}", "", if n == 0 { margin } else { indent });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["PEER", "VTEP", ">RX", "NOTE"]);
        let note =
            "silent for 9 s; its last answer was 12 s ago; the underlay's next hop to it is not resolved";
        table.row(["rvm2".into(), "10.0.0.12".into(), "5".into(), note.into()]);
        table.row(["r".repeat(63), "fd00::1234:5678:9abc:def0".into(), "1234567".into(), String::new()]);
        table
    }

    /// At any width the table shows everything and keeps names whole; lines keep to the width as far as single cells
    /// do.
    #[test]
    fn nothing_is_cut() {
        let table = table();
        for width in [usize::MAX, 200, 100, 80, 70, 40, 1] {
            let text = table.fit(Paint(false), width);
            let words = ["rvm2", &"r".repeat(63), "fd00::1234:5678:9abc:def0", "1234567", "resolved", "VTEP"];
            for word in words {
                assert!(text.contains(word), "{width}: {word}: {text}");
            }
            let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(longest <= width.max(63 + INDENT), "{width}: {longest}: {text}");
        }
    }

    #[test]
    fn a_wide_line_is_one_line() {
        let text = table().render(Paint(false));
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().next().unwrap().starts_with("PEER "), "{text}");
    }

    /// A short table has its long note on the right; a table without room has it below.
    #[test]
    fn notes_are_wrapped() {
        let mut table = Table::new(&["PORT", ">RX", "NOTE"]);
        table.row(["g1".into(), "7".into(), "one two three four five six seven eight nine ten".into()]);
        assert_eq!(
            table.fit(Paint(false), 40),
            "PORT  RX  NOTE\ng1     7  one two three four five six\n          seven eight nine ten\n"
        );
        assert_eq!(
            table.fit(Paint(false), 30),
            "PORT  RX\ng1     7\n    one two three four five\n    six seven eight nine ten\n"
        );
    }

    #[test]
    fn paragraphs() {
        assert_eq!(wrap("a  bb\nccc", 4), ["a bb", "ccc"]);
        assert_eq!(paragraph("aa bb cc dd", 9), "aa bb\n    cc dd\n");
        assert_eq!(paragraph("  aa bb", 9), "  aa bb\n");
        assert_eq!(paragraph("  aa bb cc dd", 9), "  aa\n      bb\n      cc\n      dd\n");
        assert_eq!(paragraph("", 9), "");
    }
}
