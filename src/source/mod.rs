//! Where inputs come from: one folder of code for each kind of source.

pub mod folder;
