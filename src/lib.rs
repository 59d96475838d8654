//! x
#![allow(missing_docs)]
pub mod config; pub mod decode; pub mod durable; pub mod failure; pub mod record; pub mod sink; pub mod telemetry; pub mod transform; pub mod units;
