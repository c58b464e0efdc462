//! Plain tables: columns side by side, no lines drawn.

use comfy_table::{ContentArrangement, Table, presets};

/// Lays rows out under their header, each line ended. With a `width` long cells wrap to fit it.
pub(super) fn render(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    let last = header.len().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { 2 }));
    }
    match width {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_side_by_side_and_nothing_trails() {
        let rows = || [vec!["a".to_owned(), "one two three".to_owned()], vec!["long-name".to_owned(), "-".to_owned()]];
        assert_eq!(render(&["NAME", "X"], rows(), None), "NAME       X\na          one two three\nlong-name  -\n");
        let narrow = render(&["NAME", "X"], rows(), Some(20));
        assert!(narrow.lines().count() > 3 && narrow.lines().all(|line| line.len() <= 20), "{narrow}");
    }
}
