//! The definition of a view, which every build knows.

use arrow_schema::Schema;

/// The rows that a view returns after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The groups that have changed.
    Changed,
    /// All groups.
    All,
    /// Each window once, when it is closed.
    Closed,
}

/// The definition of a view.
#[derive(Debug, Clone, Copy)]
pub struct Definition<'a> {
    /// The query.
    pub sql: &'a str,
    /// The columns of the output.
    pub schema: &'a Schema,
    /// The rows that it returns.
    pub asked: Asked,
    /// The column of the event time, if the job has one.
    pub event_time: Option<&'a str>,
    /// Functions are allowed whose state grows with the group.
    pub allow_unbounded: bool,
}
