//! Event time in a build without the feature `sql`: there is none.

/// What records are judged by; there is nothing.
#[derive(Debug)]
pub enum Judge {}
