//! Pearson's correlation coefficient.
//!
//! Invariants: it is made of the sums of the squares and products of differences from the mean, updated
//! record by record (B. P. Welford, Technometrics 4, 1962) and merged (T. F. Chan, G. H. Golub, R. J. `LeVeque`,
//! Updating formulae and a pairwise algorithm for computing sample variances, 1979). The engine's own states
//! for many groups are sums of squares, which for large numbers close to each other leave nothing that is
//! right. A NaN or an infinity makes it NaN, as in `PostgreSQL`.

use std::mem::size_of;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array as _, ArrayRef, BooleanArray, Float64Array, Int64Array};
use arrow_schema::{DataType, Field, FieldRef};
use datafusion::common::Result as Fallible;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::{each_alone, is_wanted, lost};

/// The running sums over the pairs of one group.
#[derive(Debug, Clone, Copy, Default)]
struct Pairs {
    count: i64,
    mean_x: f64,
    mean_y: f64,
    /// Sums of products of the differences from the means.
    xx: f64,
    yy: f64,
    xy: f64,
}

impl Pairs {
    fn of(x: f64, y: f64) -> Self {
        // Nothing, or NaN.
        let xx = x * 0.0;
        let yy = y * 0.0;
        Self { count: 1, mean_x: x, mean_y: y, xx, yy, xy: xx + yy }
    }

    /// These and others.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 records")]
    fn and(self, other: Self) -> Self {
        if self.count == 0 || other.count == 0 {
            return if self.count == 0 { other } else { self };
        }
        let count = self.count + other.count;
        let share = other.count as f64 / count as f64;
        let x = other.mean_x - self.mean_x;
        let y = other.mean_y - self.mean_y;
        let weight = self.count as f64 * share;
        Self {
            count,
            mean_x: self.mean_x + x * share,
            mean_y: self.mean_y + y * share,
            xx: self.xx + other.xx + x * x * weight,
            yy: self.yy + other.yy + y * y * weight,
            xy: self.xy + other.xy + x * y * weight,
        }
    }

    /// None of no pair, and where one side does not change.
    fn correlation(&self) -> Option<f64> {
        if self.count == 0 || self.xx == 0.0 || self.yy == 0.0 {
            return None;
        }
        let product = self.xx * self.yy;
        let both =
            if product.is_normal() { product.sqrt() } else { self.xx.sqrt() * self.yy.sqrt() };
        Some((self.xy / both).clamp(-1.0, 1.0))
    }
}

/// The pairs of many groups.
#[derive(Default)]
pub(super) struct Correlation(Vec<Pairs>);

/// The columns of the state.
pub(super) fn state_fields(name: &str) -> Vec<FieldRef> {
    let field = |part: &str, kind| Arc::new(Field::new(format!("{name}[{part}]"), kind, true));
    let sums = ["mean x", "mean y", "xx", "yy", "xy"].map(|part| field(part, DataType::Float64));
    std::iter::once(field("count", DataType::Int64)).chain(sums).collect()
}

impl Correlation {
    fn add(&mut self, group: usize, pairs: Pairs) {
        if let Some(known) = self.0.get_mut(group) {
            *known = known.and(pairs);
        }
    }
}

impl GroupsAccumulator for Correlation {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Fallible<()> {
        self.0.resize(total, Pairs::default());
        let [x, y] = values else { return Err(lost()) };
        let [x, y] = [x, y].map(AsArray::as_primitive::<Float64Type>);
        for (row, group) in groups.iter().enumerate() {
            if x.is_valid(row) && y.is_valid(row) && is_wanted(filter, row) {
                self.add(*group, Pairs::of(x.value(row), y.value(row)));
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Fallible<()> {
        self.0.resize(total, Pairs::default());
        let [count, sums @ ..] = states else { return Err(lost()) };
        let count = count.as_primitive::<Int64Type>();
        let sums: Vec<_> = sums.iter().map(AsArray::as_primitive::<Float64Type>).collect();
        let [mean_x, mean_y, xx, yy, xy] = sums.as_slice() else { return Err(lost()) };
        for (row, group) in groups.iter().enumerate() {
            let of = |column: &Float64Array| column.value(row);
            let mean_x = of(mean_x);
            let mean_y = of(mean_y);
            let xx = of(xx);
            let yy = of(yy);
            let xy = of(xy);
            self.add(*group, Pairs { count: count.value(row), mean_x, mean_y, xx, yy, xy });
        }
        Ok(())
    }

    fn evaluate(&mut self, which: EmitTo) -> Fallible<ArrayRef> {
        let all = which.take_needed(&mut self.0);
        Ok(Arc::new(all.iter().map(Pairs::correlation).collect::<Float64Array>()))
    }

    fn state(&mut self, which: EmitTo) -> Fallible<Vec<ArrayRef>> {
        let all = which.take_needed(&mut self.0);
        let column = |of: fn(&Pairs) -> f64| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(all.iter().map(of)))
        };
        let counts = Int64Array::from_iter_values(all.iter().map(|pairs| pairs.count));
        Ok(vec![
            Arc::new(counts),
            column(|pairs| pairs.mean_x),
            column(|pairs| pairs.mean_y),
            column(|pairs| pairs.xx),
            column(|pairs| pairs.yy),
            column(|pairs| pairs.xy),
        ])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Fallible<Vec<ArrayRef>> {
        each_alone(Self::default(), values, filter)
    }

    fn size(&self) -> usize {
        self.0.capacity() * size_of::<Pairs>()
    }
}
