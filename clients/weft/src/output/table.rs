//! Tables with aligned columns.

use std::{borrow::Cow, fmt};

/// Rows below a heading. A column is as wide as its widest cell; columns of amounts are aligned to the right.
pub(crate) struct Table {
    heading: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
    empty: Cow<'static, str>,
}

/// Between two columns.
const GAP: &str = "  ";

impl Table {
    /// A heading that begins with `>` aligns its column to the right. `empty` replaces a table without rows.
    pub(crate) fn new<const N: usize>(
        heading: [&'static str; N],
        empty: impl Into<Cow<'static, str>>,
    ) -> Table {
        let right = heading.iter().map(|cell| cell.starts_with('>')).collect();
        let heading = heading.iter().map(|cell| cell.trim_start_matches('>')).collect();
        Table {
            heading,
            right,
            rows: Vec::new(),
            empty: empty.into(),
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        // Line breaks in a service's text must not break the table.
        self.rows.push(
            cells
                .into_iter()
                .map(|cell| cell.replace(['\n', '\r', '\t'], " "))
                .collect(),
        );
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self
                .rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count());
            cells
                .chain([self.heading[column].chars().count()])
                .max()
                .unwrap_or(0)
        };
        (0..self.heading.len()).map(width).collect()
    }

    fn write_row(&self, f: &mut fmt::Formatter<'_>, cells: &[&str], widths: &[usize]) -> fmt::Result {
        let mut line = String::new();
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            let gap = if column == 0 { "" } else { GAP };
            if self.right[column] {
                line.extend([gap, &padding, cell]);
            } else {
                line.extend([gap, cell, &padding]);
            }
        }
        writeln!(f, "{}", line.trim_end())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return writeln!(f, "{}", self.empty);
        }
        let widths = self.widths();
        self.write_row(f, &self.heading, &widths)?;
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            self.write_row(f, &cells, &widths)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_an_empty_table_says_so() {
        let mut table = Table::new(["NAME", ">AMOUNT"], "nothing");
        assert_eq!(table.to_string(), "nothing\n");
        table.row(["a".into(), "1.00".into()]);
        table.row(["long\nname".into(), "12.00".into()]);
        assert_eq!(
            table.to_string(),
            "NAME       AMOUNT\na            1.00\nlong name   12.00\n"
        );
    }
}
