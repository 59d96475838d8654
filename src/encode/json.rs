//! The format `json` as output: one object on each line, NULLs written as `null`.

use arrow_array::RecordBatch;

use super::cells::Cells;

/// Appends the records. What JSON has no number for is a text, by the names that `PostgreSQL` and proto3
/// give it: `"NaN"`, `"Infinity"` and `"-Infinity"`.
///
/// # Errors
/// Names a value that has no text.
pub fn encode(records: &RecordBatch, out: &mut Vec<u8>) -> Result<(), String> {
    let schema = records.schema();
    let keys = schema.fields().iter().enumerate().map(|(number, field)| {
        let mut key = vec![if number == 0 { b'{' } else { b',' }];
        string(field.name(), &mut key);
        key.push(b':');
        key
    });
    let columns: Vec<_> = keys.zip(Cells::all(records)?).collect();
    for row in 0..records.num_rows() {
        if columns.is_empty() {
            out.push(b'{');
        }
        for (key, cells) in &columns {
            out.extend_from_slice(key);
            if cells.is_null(row) {
                out.extend_from_slice(b"null");
            } else if let Some(name) = cells.no_number(row) {
                string(name, out);
            } else if let Some(text) = cells.text(row) {
                string(text, out);
            } else if cells.is_time() {
                out.push(b'"');
                cells.write(row, out);
                out.push(b'"');
            } else {
                cells.write(row, out);
            }
        }
        out.extend_from_slice(b"}\n");
    }
    Ok(())
}

fn string(text: &str, out: &mut Vec<u8>) {
    // Writing to a vector does not fail, and a text is always JSON.
    let _ = serde_json::to_writer(out, text);
}
