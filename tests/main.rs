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

/// When a file is complete, and how it is noticed.
mod complete;

/// What becomes of inputs and outputs: names, identity, damage.
mod archive;

/// Writers that go on while a file is taken, and after.
mod altered;

/// Folders, ledgers and outputs that are replaced, or are somebody else's.
mod place;

/// Untrusted folders: odd files, odd names, bombs, turmoil.
mod hostile;

/// What was closed, and how long it is kept.
mod retention;

/// Rejects: where they go, what they say, how many are too many.
mod rejects;

/// Files that go back, among names that look like those of others.
mod requeue;

/// Commands as the transform.
mod command;

/// The three drivers agree; `split` feeds them.
mod drivers;

/// Sources of messages with positions.
mod partitions;

/// Targets on other systems.
mod remote;

/// Kafka, with a broker.
#[cfg(feature = "kafka")]
mod kafka;

/// Standard descriptors and other pipes, by what happens at their other ends.
mod pipes;

/// Csv and json, without a query.
mod formats;

/// SQL, csv and json.
#[cfg(feature = "sql")]
mod sql;

/// Times, decimals, what is not a number, NULL.
#[cfg(feature = "sql")]
mod values;

/// Reference tables, finals, results that no format can hold.
#[cfg(feature = "sql")]
mod queries;

/// Continuous views.
#[cfg(feature = "sql")]
mod views;

/// Aggregates at the ends of their types.
#[cfg(feature = "sql")]
mod aggregates;

/// Event-time windows, the watermark, late records.
#[cfg(feature = "sql")]
mod windows;

/// Parquet in and out.
#[cfg(feature = "sql")]
mod parquet;

/// The grammar of numbers against Python's.
mod numbers;

/// SIGKILL under load.
mod kills;

/// What was committed.
mod history;

/// Looking into a job and mending it.
mod operate;

/// Files with the content of an earlier one.
mod duplicates;

/// The archive and the history, pruned.
mod keeping;

/// Little room: disks and logs.
mod pressure;

/// What is packaged.
mod packages;

/// The output, closed from time to time.
mod rotation;

/// Ledgers of earlier versions.
mod upgrade;

/// Metrics, health and the page.
mod http;

/// Locks, signals, reload, systemd.
mod service;

/// What is written for people is true.
mod documents;

/// The rules of the source tree.
mod tidy;
