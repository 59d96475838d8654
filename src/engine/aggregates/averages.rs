//! Averages of decimals.
//!
//! Invariants: they are rounded half away from zero, as `PostgreSQL` rounds and as `round` does. The
//! engine's are cut off.

use std::mem::size_of;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    ArrowPrimitiveType, Decimal128Type, Decimal256Type, DecimalType as _, UInt64Type,
};
use arrow_array::{
    Array as _, ArrayRef, ArrowNativeTypeOp as _, BooleanArray, Decimal128Array, PrimitiveArray,
    UInt64Array,
};
use arrow_schema::DataType;
use datafusion::common::{DataFusionError, Result as Fallible};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::{counted, each_alone, failed, lost};
use crate::record::columns::type_name;

/// A number of 256 bits.
type Wide = <Decimal256Type as ArrowPrimitiveType>::Native;

/// The sums and counts of many groups, which are their state.
pub(super) struct Averages<T: Total> {
    counts: Vec<u64>,
    totals: Vec<T::Native>,
    /// The type of the sums, and of the averages.
    types: [DataType; 2],
}

/// A decimal in which sums are counted.
pub(super) trait Total: ArrowPrimitiveType {
    fn of(value: i128) -> Self::Native;
    fn wide(total: Self::Native) -> Wide;
}

impl Total for Decimal128Type {
    fn of(value: i128) -> i128 {
        value
    }

    fn wide(total: i128) -> Wide {
        Wide::from_i128(total)
    }
}

impl Total for Decimal256Type {
    fn of(value: i128) -> Wide {
        Wide::from_i128(value)
    }

    fn wide(total: Wide) -> Wide {
        total
    }
}

/// The averages of a decimal, with sums of this type; `None` for types that are the engine's business.
pub(super) fn of(sums: &DataType, averages: &DataType) -> Option<Box<dyn GroupsAccumulator>> {
    let types = [sums.clone(), averages.clone()];
    let (counts, DataType::Decimal128(..)) = (Vec::new(), averages) else { return None };
    Some(match sums {
        DataType::Decimal128(..) => {
            Box::new(Averages::<Decimal128Type> { counts, totals: Vec::new(), types })
        }
        DataType::Decimal256(..) => {
            Box::new(Averages::<Decimal256Type> { counts, totals: Vec::new(), types })
        }
        _ => return None,
    })
}

impl<T: Total> Averages<T> {
    fn resize(&mut self, total: usize) {
        self.counts.resize(total, 0);
        self.totals.resize(total, T::default_value());
    }

    fn add(&mut self, group: usize, value: T::Native, count: u64) -> Option<()> {
        let total = self.totals.get_mut(group)?;
        *total = total.add_checked(value).ok()?;
        *self.counts.get_mut(group)? += count;
        Some(())
    }

    fn too_large(&self) -> DataFusionError {
        let [sums, _] = &self.types;
        let sums = type_name(sums);
        failed(format!("the sum of an average is too large for its type, {sums}"))
    }

    /// A sum divided by how many it is of.
    fn average(&self, total: T::Native, count: u64) -> Option<i128> {
        let [DataType::Decimal128(_, from) | DataType::Decimal256(_, from), to] = &self.types
        else {
            return None;
        };
        let DataType::Decimal128(digits, to) = to else { return None };
        let by = Wide::from_i128(10).pow_checked(u32::try_from(to - from).ok()?).ok()?;
        let total = T::wide(total).mul_checked(by).ok()?;
        let count = Wide::from_i128(count.into());
        let whole = total.div_checked(count).ok()?;
        let rest = total.mod_checked(count).ok()?;
        let half = rest.mul_checked(Wide::from_i128(2)).ok()?;
        let away = if half >= count {
            Wide::ONE
        } else if half <= count.neg_checked().ok()? {
            Wide::MINUS_ONE
        } else {
            Wide::ZERO
        };
        let average = whole.add_checked(away).ok()?.to_i128()?;
        Decimal128Type::is_valid_decimal_precision(average, *digits).then_some(average)
    }
}

impl<T: Total> GroupsAccumulator for Averages<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Fallible<()> {
        self.resize(total);
        let values = values.first().ok_or_else(lost)?.as_primitive::<Decimal128Type>();
        let mut is_counted = true;
        counted(values, groups, filter, |group, value| {
            is_counted &= self.add(group, T::of(value), 1).is_some();
        });
        if is_counted { Ok(()) } else { Err(self.too_large()) }
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Fallible<()> {
        self.resize(total);
        let [counts, totals] = states else { return Err(lost()) };
        let (counts, totals) = (counts.as_primitive::<UInt64Type>(), totals.as_primitive::<T>());
        for (row, group) in groups.iter().enumerate() {
            if counts.is_valid(row) && totals.is_valid(row) {
                let added = self.add(*group, totals.value(row), counts.value(row));
                added.ok_or_else(|| self.too_large())?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, which: EmitTo) -> Fallible<ArrayRef> {
        let counts = which.take_needed(&mut self.counts);
        let totals = which.take_needed(&mut self.totals);
        let [_, to] = &self.types;
        let too_large =
            || failed(format!("an average is too large for its type, {}", type_name(to)));
        let average = |(count, total)| match count {
            0 => Ok(None),
            count => self.average(total, count).map(Some).ok_or_else(too_large),
        };
        let averages =
            counts.into_iter().zip(totals).map(average).collect::<Fallible<Decimal128Array>>()?;
        Ok(Arc::new(averages.with_data_type(to.clone())))
    }

    fn state(&mut self, which: EmitTo) -> Fallible<Vec<ArrayRef>> {
        let counts = which.take_needed(&mut self.counts);
        let counted = which.take_needed(&mut self.totals).into_iter().zip(&counts);
        let totals: PrimitiveArray<T> =
            counted.map(|(total, count)| (*count > 0).then_some(total)).collect();
        let [sums, _] = &self.types;
        let totals = totals.with_data_type(sums.clone());
        Ok(vec![Arc::new(UInt64Array::from(counts)), Arc::new(totals)])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Fallible<Vec<ArrayRef>> {
        each_alone(
            Self { counts: Vec::new(), totals: Vec::new(), types: self.types.clone() },
            values,
            filter,
        )
    }

    fn size(&self) -> usize {
        self.totals.capacity() * size_of::<T::Native>() + self.counts.capacity() * size_of::<u64>()
    }
}
