//! Aggregates that are right at the ends of their types, where the engine's own give a number that no
//! record and no sum has: `sum`, `avg`, `min`, `max`, `median` and `corr`.
//!
//! Invariants:
//! - A sum that its type cannot hold is an error. The engine's wraps.
//! - Sums and averages of doubles are the same in any order, but for rare digits ([`doubles`]); averages of
//!   decimals are rounded ([`averages`]); the median of whole numbers may lie between them; `corr` is right
//!   for large numbers, too ([`correlation`]).
//! - NaN is larger than every other number, as in `PostgreSQL`, and the extremes of infinities are
//!   infinities. The engine's begin at the largest finite number, and take a NaN for both.
//!
//! Whatever else a function has is the engine's: its types, its state, moving frames of decimal averages.

use std::mem::size_of;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType,
    Float16Type, Float32Type, Float64Type, Int64Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, ArrowNativeTypeOp as _, BooleanArray, PrimitiveArray};
use arrow_schema::{DataType, Field, FieldRef};
use datafusion::common::{DataFusionError, Result as Fallible, not_impl_err, plan_err};
use datafusion::execution::FunctionRegistry as _;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature, Volatility,
};
use datafusion::prelude::SessionContext;
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::accumulate::NullState;
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;

use super::error::failed;
use crate::record::columns::type_name;
use correlation::Correlation;
use doubles::Doubles;
use one::{Distinct, One};

mod averages;
mod correlation;
mod doubles;
mod one;
mod sliding;

/// States of many groups.
type Own = Box<dyn GroupsAccumulator>;

/// Makes the functions known, instead of the engine's.
pub fn register(context: &SessionContext) {
    let all = [
        ("sum", Kind::Sum),
        ("avg", Kind::Average),
        ("min", Kind::Min),
        ("max", Kind::Max),
        ("median", Kind::Median),
        ("corr", Kind::Correlation),
    ];
    for (name, kind) in all {
        if let Ok(inner) = context.udaf(name) {
            let signature = match kind {
                Kind::Median => Signature::user_defined(Volatility::Immutable),
                _ => inner.signature().clone(),
            };
            context.register_udaf(AggregateUDF::from(Exact { inner, kind, signature }));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Sum,
    Average,
    Min,
    Max,
    Median,
    Correlation,
}

/// A function of the engine, with states of its own for many groups.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Exact {
    inner: Arc<AggregateUDF>,
    kind: Kind,
    signature: Signature,
}

impl Exact {
    /// The states of many groups, for the types that the engine's are wrong for.
    fn groups_of(&self, arguments: &AccumulatorArgs) -> Fallible<Option<Own>> {
        let data_type = arguments.return_field.data_type();
        if self.kind != Kind::Average {
            return Ok(self.groups(data_type));
        }
        if *data_type == DataType::Float64 {
            return Ok(Some(Box::new(Doubles::new(doubles::Asked::Average))));
        }
        let fields = self.inner.state_fields(StateFieldsArgs {
            name: arguments.name,
            input_fields: arguments.expr_fields,
            return_field: arguments.return_field.clone(),
            ordering_fields: &[],
            is_distinct: false,
        })?;
        Ok(fields.get(1).and_then(|sums| averages::of(sums.data_type(), data_type)))
    }

    fn groups(&self, data_type: &DataType) -> Option<Own> {
        macro_rules! extreme {
            ($kind:ty, $native:ty) => {
                match self.kind {
                    Kind::Min => {
                        let take = |least: &mut $native, value: $native| {
                            if least.is_nan() || value < *least {
                                *least = value;
                            }
                        };
                        let all = PrimitiveGroupsAccumulator::<$kind, _>::new(data_type, take);
                        Some(Box::new(all.with_starting_value(<$native>::NAN)))
                    }
                    _ => {
                        let take = |most: &mut $native, value: $native| {
                            if value.is_nan() || value > *most {
                                *most = value;
                            }
                        };
                        let all = PrimitiveGroupsAccumulator::<$kind, _>::new(data_type, take);
                        Some(Box::new(all.with_starting_value(<$native>::NEG_INFINITY)))
                    }
                }
            };
        }
        match (self.kind, data_type) {
            (Kind::Sum, DataType::Int64) => Sums::<Int64Type>::of(data_type),
            (Kind::Sum, DataType::UInt64) => Sums::<UInt64Type>::of(data_type),
            (Kind::Sum, DataType::Decimal32(..)) => Sums::<Decimal32Type>::of(data_type),
            (Kind::Sum, DataType::Decimal64(..)) => Sums::<Decimal64Type>::of(data_type),
            (Kind::Sum, DataType::Decimal128(..)) => Sums::<Decimal128Type>::of(data_type),
            (Kind::Sum, DataType::Decimal256(..)) => Sums::<Decimal256Type>::of(data_type),
            (Kind::Sum, DataType::Float64) => Some(Box::new(Doubles::new(doubles::Asked::Sum))),
            (Kind::Correlation, _) => Some(Box::new(Correlation::default())),
            (Kind::Sum | Kind::Average | Kind::Median, _) => None,
            (_, DataType::Float16) => {
                extreme!(Float16Type, <Float16Type as ArrowPrimitiveType>::Native)
            }
            (_, DataType::Float32) => extreme!(Float32Type, f32),
            (_, DataType::Float64) => extreme!(Float64Type, f64),
            _ => None,
        }
    }
}

impl AggregateUDFImpl for Exact {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Fallible<DataType> {
        self.inner.return_type(arguments)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Fallible<Vec<DataType>> {
        if self.kind != Kind::Median {
            return self.inner.coerce_types(arguments);
        }
        // What lies between two whole numbers is none.
        let between = |kind: &DataType| match kind {
            kind if kind.is_integer() => Ok(DataType::Float64),
            kind if kind.is_numeric() || kind.is_null() => Ok(kind.clone()),
            kind => plan_err!("`median` is of numbers, and this is a {}", type_name(kind)),
        };
        arguments.iter().map(between).collect()
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Fallible<Box<dyn Accumulator>> {
        let inputs: Vec<_> =
            arguments.expr_fields.iter().map(|field| field.data_type().clone()).collect();
        if self.kind == Kind::Correlation && arguments.is_distinct {
            return not_impl_err!("`corr(distinct ..)`");
        }
        let is_sum = matches!(self.kind, Kind::Sum | Kind::Average);
        match self.groups_of(&arguments)? {
            Some(of) if arguments.is_distinct && is_sum => {
                let inner = self.inner.accumulator(arguments)?;
                Ok(Box::new(Distinct::new(inner, of)))
            }
            Some(groups) if !arguments.is_distinct => Ok(Box::new(One::new(groups, &inputs)?)),
            _ => self.inner.accumulator(arguments),
        }
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Fallible<Vec<FieldRef>> {
        if self.kind == Kind::Correlation {
            return Ok(correlation::state_fields(arguments.name));
        }
        let is_double = *arguments.return_field.data_type() == DataType::Float64;
        let is_sum = matches!(self.kind, Kind::Sum | Kind::Average) && !arguments.is_distinct;
        let error = format_state_name(arguments.name, "error");
        let mut fields = self.inner.state_fields(arguments)?;
        if is_sum && is_double {
            fields.push(Arc::new(Field::new(error, DataType::Float64, true)));
        }
        Ok(fields)
    }

    fn groups_accumulator_supported(&self, arguments: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(arguments)
    }

    fn create_groups_accumulator(
        &self,
        arguments: AccumulatorArgs,
    ) -> Fallible<Box<dyn GroupsAccumulator>> {
        match self.groups_of(&arguments)? {
            Some(groups) => Ok(groups),
            None => self.inner.create_groups_accumulator(arguments),
        }
    }

    fn create_sliding_accumulator(
        &self,
        arguments: AccumulatorArgs,
    ) -> Fallible<Box<dyn Accumulator>> {
        let data_type = arguments.return_field.data_type();
        if arguments.is_distinct || !matches!(self.kind, Kind::Sum | Kind::Average) {
            return self.inner.create_sliding_accumulator(arguments);
        }
        Ok(match (self.kind, data_type) {
            (Kind::Sum, DataType::Int64) => sliding::Sum::<Int64Type>::of(data_type),
            (Kind::Sum, DataType::UInt64) => sliding::Sum::<UInt64Type>::of(data_type),
            (Kind::Sum, DataType::Decimal128(..)) => sliding::Sum::<Decimal128Type>::of(data_type),
            (Kind::Sum, DataType::Float64) => sliding::Doubles::of(doubles::Asked::Sum),
            (Kind::Average, DataType::Float64) => sliding::Doubles::of(doubles::Asked::Average),
            _ => return self.inner.create_sliding_accumulator(arguments),
        })
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }
}

/// Takes the values that count, with their groups.
fn counted<T: ArrowPrimitiveType>(
    values: &PrimitiveArray<T>,
    groups: &[usize],
    filter: Option<&BooleanArray>,
    mut take: impl FnMut(usize, T::Native),
) {
    let all = groups.iter().copied().zip(values.values().iter().copied());
    if filter.is_none() && values.null_count() == 0 {
        return all.for_each(|(group, value)| take(group, value));
    }
    for (row, (group, value)) in all.enumerate() {
        if values.is_valid(row) && is_wanted(filter, row) {
            take(group, value);
        }
    }
}

/// True when the filter takes this row.
fn is_wanted(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

/// The states of records, each as a group of its own.
fn each_alone(
    mut alone: impl GroupsAccumulator,
    values: &[ArrayRef],
    filter: Option<&BooleanArray>,
) -> Fallible<Vec<ArrayRef>> {
    let records = values.first().map_or(0, Array::len);
    alone.update_batch(values, &(0..records).collect::<Vec<_>>(), filter, records)?;
    alone.state(EmitTo::All)
}

fn too_large(data_type: &DataType) -> DataFusionError {
    failed(format!("a sum is too large for its type, {}", type_name(data_type)))
}

/// A state has not the columns that it should have.
fn lost() -> DataFusionError {
    failed("a function has lost a column".to_owned())
}

/// A number that sums are made of.
trait Summed: ArrowPrimitiveType + Send + std::fmt::Debug {
    /// The type of the running total.
    type Total: Copy + Default + Send + Sync + std::fmt::Debug;

    /// A sum and one more value, if it can be counted.
    fn add(total: Self::Total, value: Self::Native) -> Option<Self::Total>;

    /// A sum without one of its values, if it can be counted.
    fn take_away(total: Self::Total, value: Self::Native) -> Option<Self::Total>;

    /// The sum as a value of this type, if that can hold it.
    fn narrow(total: Self::Total, data_type: &DataType) -> Option<Self::Native>;
}

macro_rules! whole {
    ($kind:ty) => {
        impl Summed for $kind {
            type Total = i128;

            fn add(total: i128, value: Self::Native) -> Option<i128> {
                total.checked_add(i128::from(value))
            }

            fn take_away(total: i128, value: Self::Native) -> Option<i128> {
                total.checked_sub(i128::from(value))
            }

            fn narrow(total: i128, _: &DataType) -> Option<Self::Native> {
                total.try_into().ok()
            }
        }
    };
}

whole!(Int64Type);
whole!(UInt64Type);

/// Decimals are counted as they are: each type has room for more digits than it may show.
macro_rules! decimal {
    ($kind:ty, $variant:ident) => {
        impl Summed for $kind {
            type Total = Self::Native;

            fn add(total: Self::Native, value: Self::Native) -> Option<Self::Native> {
                total.add_checked(value).ok()
            }

            fn take_away(total: Self::Native, value: Self::Native) -> Option<Self::Native> {
                total.sub_checked(value).ok()
            }

            fn narrow(total: Self::Native, data_type: &DataType) -> Option<Self::Native> {
                let DataType::$variant(digits, _) = data_type else { return None };
                Self::is_valid_decimal_precision(total, *digits).then_some(total)
            }
        }
    };
}

decimal!(Decimal32Type, Decimal32);
decimal!(Decimal64Type, Decimal64);
decimal!(Decimal128Type, Decimal128);
decimal!(Decimal256Type, Decimal256);

/// The sums of many groups.
struct Sums<T: Summed> {
    totals: Vec<T::Total>,
    /// Which groups have a value.
    nulls: NullState,
    data_type: DataType,
}

impl<T: Summed> Sums<T> {
    #[expect(clippy::unnecessary_wraps, reason = "it stands in a `match` of options")]
    fn of(data_type: &DataType) -> Option<Own> {
        let data_type = data_type.clone();
        Some(Box::new(Self { totals: Vec::new(), nulls: NullState::new(), data_type }))
    }
}

impl<T: Summed> GroupsAccumulator for Sums<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Fallible<()> {
        let values = values.first().ok_or_else(lost)?.as_primitive::<T>();
        self.totals.resize(total, T::Total::default());
        let totals = &mut self.totals;
        let mut is_counted = true;
        self.nulls.accumulate(groups, values, filter, total, |group, value| {
            let Some(total) = totals.get_mut(group) else { return };
            match T::add(*total, value) {
                Some(more) => *total = more,
                None => is_counted = false,
            }
        });
        if is_counted { Ok(()) } else { Err(too_large(&self.data_type)) }
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Fallible<()> {
        self.update_batch(values, groups, None, total)
    }

    fn evaluate(&mut self, which: EmitTo) -> Fallible<ArrayRef> {
        let totals = which.take_needed(&mut self.totals);
        let nulls = self.nulls.build(which);
        let narrow =
            |total| T::narrow(total, &self.data_type).ok_or_else(|| too_large(&self.data_type));
        let narrowed = totals.into_iter().map(narrow).collect::<Fallible<Vec<T::Native>>>()?;
        let values = PrimitiveArray::<T>::new(narrowed.into(), nulls);
        Ok(Arc::new(values.with_data_type(self.data_type.clone())))
    }

    fn state(&mut self, which: EmitTo) -> Fallible<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(which)?])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Fallible<Vec<ArrayRef>> {
        let data_type = self.data_type.clone();
        let alone = Self { totals: Vec::new(), nulls: NullState::new(), data_type };
        each_alone(alone, values, filter)
    }

    fn size(&self) -> usize {
        self.totals.capacity() * size_of::<T::Total>() + self.nulls.size()
    }
}
