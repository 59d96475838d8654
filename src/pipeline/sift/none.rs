//! Judging by event time in a build without the feature `sql`: there is nothing to judge by.

use arrow_array::RecordBatch;

use crate::encode;
use crate::event_time::Judge;
use crate::record::{Late, Reject};

/// Where records come from.
#[expect(dead_code, reason = "nobody judges")]
pub struct Origins<'a> {
    pub lines: Option<Vec<u64>>,
    pub text: Option<Text<'a>>,
    pub encode: encode::Format,
}

/// A block.
#[expect(dead_code, reason = "nobody judges")]
pub struct Text<'a> {
    pub bytes: &'a [u8],
    pub begins: Vec<u64>,
}

/// What became of records.
pub struct Sifted {
    pub records: RecordBatch,
    pub rejects: Vec<Reject>,
    pub late: Vec<Late>,
}

/// There is no judge.
pub fn sift(judge: &Judge, _records: &RecordBatch, _origins: &Origins<'_>) -> Sifted {
    match *judge {}
}

/// The lines of no records.
pub fn begins(_good: &[u64], _rejects: &[Reject]) -> Vec<u64> {
    Vec::new()
}
