//! Where records go: files that other programs read.

pub mod replaced;
