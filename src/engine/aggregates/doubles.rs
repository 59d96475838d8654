//! Sums and averages of doubles that do not forget what rounding took away.
//!
//! Invariants: beside each sum stands the sum of the errors of its additions (A. Neumaier,
//! Rundungsfehleranalyse einiger Verfahren zur Summation endlicher Summen, ZAMM 54, 1974; each error by
//! Knuth's `TwoSum`, The Art of Computer Programming 4.2.2). So the same numbers give the same digits in any
//! order, but where the errors themselves are rounded: where numbers cancel out that are some 2^50 times as
//! large as what is left.

use std::mem::size_of;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt64Type};
use arrow_array::{Array as _, ArrayRef, BooleanArray, Float64Array, UInt64Array};
use datafusion::common::Result as Fallible;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::{counted, each_alone, lost};

/// The aggregate over the doubles of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Sum,
    Average,
}

/// The sums of many groups. Their state is for an average the count, then the sum and its error.
pub(super) struct Doubles {
    asked: Asked,
    counts: Vec<u64>,
    sums: Vec<f64>,
    errors: Vec<f64>,
}

impl Doubles {
    pub(super) fn new(asked: Asked) -> Self {
        Self { asked, counts: Vec::new(), sums: Vec::new(), errors: Vec::new() }
    }

    fn resize(&mut self, total: usize) {
        self.counts.resize(total, 0);
        self.sums.resize(total, 0.0);
        self.errors.resize(total, 0.0);
    }

    /// Adds one value, or a sum with its count.
    fn add(&mut self, group: usize, value: f64, error: f64, count: u64) {
        let Some(sum) = self.sums.get_mut(group) else { return };
        let before = *sum;
        *sum += value;
        let Some(errors) = self.errors.get_mut(group) else { return };
        *errors += lost_in(before, value, *sum) + error;
        if let Some(counts) = self.counts.get_mut(group) {
            *counts += count;
        }
    }
}

/// The rounding error of the sum of two numbers.
pub(super) fn lost_in(one: f64, other: f64, sum: f64) -> f64 {
    let of_other = sum - one;
    (one - (sum - of_other)) + (other - of_other)
}

impl GroupsAccumulator for Doubles {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Fallible<()> {
        self.resize(total);
        let values = values.first().ok_or_else(lost)?.as_primitive::<Float64Type>();
        counted(values, groups, filter, |group, value| self.add(group, value, 0.0, 1));
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Fallible<()> {
        self.resize(total);
        let (counts, [sums, errors]) = match (self.asked, states) {
            (Asked::Sum, [sums, errors]) => (None, [sums, errors]),
            (Asked::Average, [counts, sums, errors]) => (Some(counts), [sums, errors]),
            _ => return Err(lost()),
        };
        let counts = counts.map(AsArray::as_primitive::<UInt64Type>);
        let [sums, errors] = [sums, errors].map(AsArray::as_primitive::<Float64Type>);
        for (row, group) in groups.iter().enumerate() {
            if sums.is_valid(row) {
                let count = counts.map_or(1, |counts| counts.value(row));
                self.add(*group, sums.value(row), errors.value(row), count);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, which: EmitTo) -> Fallible<ArrayRef> {
        let counts = which.take_needed(&mut self.counts);
        let sums = which.take_needed(&mut self.sums);
        let errors = which.take_needed(&mut self.errors);
        let values = counts.iter().zip(sums.iter().zip(errors)).map(|(count, (sum, error))| {
            // Infinities lose nothing that could be told.
            let sum = if sum.is_finite() { sum + error } else { *sum };
            #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 records")]
            let value = if self.asked == Asked::Sum { sum } else { sum / *count as f64 };
            (*count > 0).then_some(value)
        });
        Ok(Arc::new(values.collect::<Float64Array>()))
    }

    fn state(&mut self, which: EmitTo) -> Fallible<Vec<ArrayRef>> {
        let counts = which.take_needed(&mut self.counts);
        let is_there = |values: Vec<f64>| -> ArrayRef {
            let values =
                values.into_iter().zip(&counts).map(|(value, count)| (*count > 0).then_some(value));
            Arc::new(values.collect::<Float64Array>())
        };
        let sums = is_there(which.take_needed(&mut self.sums));
        let errors = is_there(which.take_needed(&mut self.errors));
        Ok(match self.asked {
            Asked::Sum => vec![sums, errors],
            Asked::Average => vec![Arc::new(UInt64Array::from(counts)), sums, errors],
        })
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Fallible<Vec<ArrayRef>> {
        each_alone(Self::new(self.asked), values, filter)
    }

    fn size(&self) -> usize {
        (self.sums.capacity() + self.errors.capacity()) * size_of::<f64>()
            + self.counts.capacity() * size_of::<u64>()
    }
}
