//! Sums and averages over a frame that moves: `over (... rows between ...)`.
//!
//! Invariants: what leaves the frame is taken away again, and leaves nothing of itself, also where it
//! was an infinity or NaN.

use std::mem::size_of_val;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Float64Type;
use arrow_array::{Array as _, ArrayRef, PrimitiveArray};
use arrow_schema::DataType;
use datafusion::common::{Result as Fallible, ScalarValue};
use datafusion::logical_expr::Accumulator;

use super::doubles::{self, lost_in};
use super::{Summed, lost, too_large};

/// A sum in a type that it may leave.
#[derive(Debug)]
pub(super) struct Sum<T: Summed> {
    total: T::Total,
    count: u64,
    data_type: DataType,
}

impl<T: Summed> Sum<T> {
    pub(super) fn of(data_type: &DataType) -> Box<dyn Accumulator> {
        let total = T::Total::default();
        let count = 0;
        Box::new(Self { total, count, data_type: data_type.clone() })
    }

    fn each(
        &mut self,
        values: &[ArrayRef],
        with: fn(T::Total, T::Native) -> Option<T::Total>,
    ) -> Fallible<u64> {
        let values = values.first().ok_or_else(lost)?.as_primitive::<T>();
        for value in values.iter().flatten() {
            let total = with(self.total, value);
            self.total = total.ok_or_else(|| too_large(&self.data_type))?;
        }
        Ok((values.len() - values.null_count()) as u64)
    }
}

impl<T: Summed> Accumulator for Sum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Fallible<()> {
        self.count += self.each(values, T::add)?;
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Fallible<()> {
        self.count -= self.each(values, T::take_away)?;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Fallible<ScalarValue> {
        let value = if self.count == 0 {
            None
        } else {
            let value = T::narrow(self.total, &self.data_type);
            Some(value.ok_or_else(|| too_large(&self.data_type))?)
        };
        let value: PrimitiveArray<T> = std::iter::once(value).collect();
        ScalarValue::try_from_array(&value.with_data_type(self.data_type.clone()), 0)
    }

    fn state(&mut self) -> Fallible<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Fallible<()> {
        self.update_batch(states)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// A sum or an average of doubles.
#[derive(Debug)]
pub(super) struct Doubles {
    asked: doubles::Asked,
    /// Of those that are finite, with the errors of the additions.
    sum: f64,
    error: f64,
    count: u64,
    /// How many are NaN, and infinite either way.
    nans: u64,
    ups: u64,
    downs: u64,
}

impl Doubles {
    pub(super) fn of(asked: doubles::Asked) -> Box<dyn Accumulator> {
        let sum = 0.0;
        let error = 0.0;
        Box::new(Self { asked, sum, error, count: 0, nans: 0, ups: 0, downs: 0 })
    }

    fn each(&mut self, values: &[ArrayRef], comes: bool) -> Fallible<()> {
        let values = values.first().ok_or_else(lost)?.as_primitive::<Float64Type>();
        for value in values.iter().flatten() {
            let count = |count: &mut u64| *count = if comes { *count + 1 } else { *count - 1 };
            count(&mut self.count);
            if value.is_nan() {
                count(&mut self.nans);
            } else if value.is_infinite() {
                count(if value > 0.0 { &mut self.ups } else { &mut self.downs });
            } else {
                let value = if comes { value } else { -value };
                let before = self.sum;
                self.sum += value;
                self.error += lost_in(before, value, self.sum);
                if !self.sum.is_finite() {
                    return Err(too_large(&DataType::Float64));
                }
            }
        }
        if self.count == self.nans + self.ups + self.downs {
            (self.sum, self.error) = (0.0, 0.0);
        }
        Ok(())
    }
}

impl Accumulator for Doubles {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Fallible<()> {
        self.each(values, true)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Fallible<()> {
        self.each(values, false)
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 records")]
    fn evaluate(&mut self) -> Fallible<ScalarValue> {
        let sum = match (self.nans, self.ups, self.downs) {
            (0, 0, 0) => self.sum + self.error,
            (0, _, 0) => f64::INFINITY,
            (0, 0, _) => f64::NEG_INFINITY,
            _ => f64::NAN,
        };
        let is_sum = self.asked == doubles::Asked::Sum;
        let value = if is_sum { sum } else { sum / self.count as f64 };
        Ok(ScalarValue::Float64((self.count > 0).then_some(value)))
    }

    fn state(&mut self) -> Fallible<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, _states: &[ArrayRef]) -> Fallible<()> {
        // Frames are never merged.
        Err(lost())
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
