//! Errors of the engine, in one line.

use arrow_schema::ArrowError;
use datafusion::common::{DataFusionError, Location};

/// Why a query cannot be planned or executed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct QueryError {
    message: String,
    /// True when the disk is at fault, not the query or the data.
    pub transient: bool,
    /// True when the query cannot run, whatever the data.
    pub is_inability: bool,
}

/// True when the engine has no way to run this.
fn is_inability(error: &DataFusionError) -> bool {
    matches!(
        error,
        DataFusionError::NotImplemented(_)
            | DataFusionError::Internal(_)
            | DataFusionError::Plan(_)
            | DataFusionError::SchemaError(_, _)
    )
}

/// True when the system failed, as it does when there is no room to spill to.
fn is_io(error: &DataFusionError) -> bool {
    match error {
        DataFusionError::IoError(_) => true,
        DataFusionError::ArrowError(error, _) => matches!(**error, ArrowError::IoError(_, _)),
        _ => false,
    }
}

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        Self::of(&error)
    }
}

impl QueryError {
    /// A problem of our own.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), transient: false, is_inability: false }
    }

    /// The engine has given up, with these words.
    pub fn panicked(words: &(dyn std::any::Any + Send)) -> Self {
        let owned = words.downcast_ref::<String>().map(String::as_str);
        let words = owned
            .or_else(|| words.downcast_ref::<&str>().copied())
            .unwrap_or("it does not say why");
        Self::new(format!("the engine gave up: {words}"))
    }

    /// The engine gives up on some data, and must not take others with it.
    pub fn guard<T, E: Into<Self>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, Self> {
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        match worked {
            Ok(worked) => worked.map_err(Into::into),
            Err(panic) => Err(Self::panicked(&*panic)),
        }
    }

    /// A problem of the engine's.
    pub fn of(error: &DataFusionError) -> Self {
        let root = error.find_root();
        let text = root.strip_backtrace();
        // The engine's own kinds say nothing to the user.
        let message = [
            "Error during planning: ",
            "Schema error: ",
            "SQL error: ",
            "Execution error: ",
            "Arrow error: ",
        ]
        .iter()
        .fold(text.as_str(), |text, prefix| text.strip_prefix(prefix).unwrap_or(text))
        .replace("This feature is not implemented: ", "not implemented: ");
        let transient = is_io(root);
        let is_inability = is_inability(root);
        Self { message: message.replace('\n', " "), transient, is_inability }
    }

    /// A problem with a statement, with its place marked.
    pub fn in_statement(error: &DataFusionError, sql: &str) -> Self {
        let problem = Self::of(error);
        let place =
            error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| span.start);
        match place.or_else(|| place_in(&problem.message)) {
            Some(place) => Self { message: marked(&problem.message, sql, place), ..problem },
            None => problem,
        }
    }

    /// The same with a word on what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: Option<&str>) -> Self {
        if let Some(hint) = hint {
            self.message = format!("{}\n{hint}", self.message);
        }
        self
    }
}

/// The place that the parser names in its message: `at Line: 1, Column: 8`.
fn place_in(message: &str) -> Option<Location> {
    let (_, behind) = message.rsplit_once("Line: ")?;
    let (line, behind) = behind.split_once(", Column: ")?;
    let column: String = behind.chars().take_while(char::is_ascii_digit).collect();
    Some(Location { line: line.parse().ok()?, column: column.parse().ok()? })
}

/// The message, the line of the statement, and a mark below the place.
fn marked(message: &str, sql: &str, place: Location) -> String {
    let line = usize::try_from(place.line).ok().and_then(|line| line.checked_sub(1));
    let Some(text) = line.and_then(|line| sql.lines().nth(line)) else {
        return message.to_owned();
    };
    let column = usize::try_from(place.column).unwrap_or(1).saturating_sub(1);
    // As wide as what stands before it, tabs as tabs.
    let before_it = text.chars().take(column);
    let before: String = before_it.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    format!("{message}\n  | {text}\n  | {before}^")
}

/// An error about a value.
pub fn failed(message: String) -> DataFusionError {
    DataFusionError::Execution(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_full_passes() {
        let full = || std::io::Error::from_raw_os_error(28);
        assert!(QueryError::of(&DataFusionError::IoError(full())).transient);
        let cause = ArrowError::IoError("write".to_owned(), full());
        let error = DataFusionError::ArrowError(Box::new(cause), None);
        assert!(QueryError::of(&error.context("spill")).transient);
        assert!(!QueryError::of(&DataFusionError::Execution("no".to_owned())).transient);
    }

    #[test]
    fn the_place_is_marked() {
        let place = place_in("Expected: an expression, found: from at Line: 2, Column: 3").unwrap();
        assert_eq!(marked("no", "a\n\tb c", place), "no\n  | \tb c\n  | \t ^");
    }
}
