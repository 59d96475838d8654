//! The transform `sql`: a query over the records of one file. The engine plans and runs it.

use serde::{Deserialize, Serialize};

/// `[transform.sql]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sql {
    /// The query; the table is `input`.
    pub query: String,
}
