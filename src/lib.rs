//! x
#![allow(missing_docs)]
pub mod cli;
pub mod config;
pub mod daemon;
pub mod decode;
pub mod durable;
pub mod failure;
pub mod ledger;
pub mod pipeline;
pub mod publish;
pub mod record;
pub mod sink;
pub mod source;
pub mod telemetry;
pub mod transform;
pub mod units;
