//! The integration tests: the real binary on real folders with a real ledger.
//!
//! Each promise of the crate documentation names the test here that guards it.

#![allow(missing_docs, clippy::pedantic, clippy::disallowed_methods, clippy::print_stderr)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

/// What the tests are written with.
mod support;

/// The script that people write today, and the job that takes its place.
mod seed;

/// Crashes, failures and power cuts at every durable operation; the mutants that must be caught.
mod crashes;
