//! Aggregates that are right at the ends of their types, where the engine's own give a number that no
//! record and no sum has: `sum`, `min` and `max`.
//!
//! What holds here:
//! - A sum that its type cannot hold is an error. The engine's wraps.
//! - NaN is larger than every other number, as in `PostgreSQL`, and the extremes of infinities are
//!   infinities. The engine's begin at the largest finite number, and take a NaN for both.
//!
//! Whatever else a function has is the engine's: its types, its state, `distinct`, sliding frames.

use std::mem::size_of;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    ArrowPrimitiveType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType,
    Float16Type, Float32Type, Float64Type, Int64Type, UInt64Type,
};
use arrow_array::{ArrayRef, ArrowNativeTypeOp as _, BooleanArray, PrimitiveArray, new_null_array};
use arrow_schema::{DataType, FieldRef};
use datafusion::common::{DataFusionError, Result as Fallible, ScalarValue};
use datafusion::execution::FunctionRegistry as _;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature,
};
use datafusion::prelude::SessionContext;
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::accumulate::NullState;
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;

use super::functions::failed;

/// Makes the functions known, in place of the engine's.
pub fn register(context: &SessionContext) {
    for (name, kind) in [("sum", Kind::Sum), ("min", Kind::Min), ("max", Kind::Max)] {
        if let Ok(inner) = context.udaf(name) {
            context.register_udaf(AggregateUDF::from(Exact { inner, kind }));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Sum,
    Min,
    Max,
}

/// A function of the engine, with states of its own for many groups.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Exact {
    inner: Arc<AggregateUDF>,
    kind: Kind,
}

impl Exact {
    /// The states of many groups, for the types that the engine's are wrong for.
    fn groups(&self, data_type: &DataType) -> Option<Box<dyn GroupsAccumulator>> {
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
            (Kind::Sum, _) => None,
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

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Fallible<DataType> {
        self.inner.return_type(arguments)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Fallible<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Fallible<Box<dyn Accumulator>> {
        let data_type = arguments.return_field.data_type();
        let own = if arguments.is_distinct { None } else { self.groups(data_type) };
        match own {
            Some(groups) => Ok(Box::new(One::new(groups, data_type)?)),
            None => self.inner.accumulator(arguments),
        }
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Fallible<Vec<FieldRef>> {
        self.inner.state_fields(arguments)
    }

    fn groups_accumulator_supported(&self, arguments: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(arguments)
    }

    fn create_groups_accumulator(
        &self,
        arguments: AccumulatorArgs,
    ) -> Fallible<Box<dyn GroupsAccumulator>> {
        match self.groups(arguments.return_field.data_type()) {
            Some(groups) => Ok(groups),
            None => self.inner.create_groups_accumulator(arguments),
        }
    }

    fn create_sliding_accumulator(
        &self,
        arguments: AccumulatorArgs,
    ) -> Fallible<Box<dyn Accumulator>> {
        self.inner.create_sliding_accumulator(arguments)
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

/// A number that sums are made of.
trait Summed: ArrowPrimitiveType + Send {
    /// What a sum is counted in until it is asked for.
    type Total: Copy + Default + Send + Sync;

    /// A sum and one more value, if it can be counted.
    fn add(total: Self::Total, value: Self::Native) -> Option<Self::Total>;

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
    fn of(data_type: &DataType) -> Option<Box<dyn GroupsAccumulator>> {
        let data_type = data_type.clone();
        Some(Box::new(Self { totals: Vec::new(), nulls: NullState::new(), data_type }))
    }

    fn too_large(&self) -> DataFusionError {
        failed(format!("a sum is too large for its type, {}", self.data_type))
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
        let values = values.first().ok_or_else(|| failed("a sum of nothing".to_owned()))?;
        let values = values.as_primitive::<T>();
        self.totals.resize(total, T::Total::default());
        let (totals, mut is_counted) = (&mut self.totals, true);
        self.nulls.accumulate(groups, values, filter, total, |group, value| {
            let Some(total) = totals.get_mut(group) else { return };
            match T::add(*total, value) {
                Some(more) => *total = more,
                None => is_counted = false,
            }
        });
        if is_counted { Ok(()) } else { Err(self.too_large()) }
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Fallible<()> {
        self.update_batch(values, groups, None, total)
    }

    fn evaluate(&mut self, which: EmitTo) -> Fallible<ArrayRef> {
        let totals = which.take_needed(&mut self.totals);
        let nulls = self.nulls.build(which);
        let narrow = |total| T::narrow(total, &self.data_type).ok_or_else(|| self.too_large());
        let values = totals.into_iter().map(narrow).collect::<Fallible<Vec<T::Native>>>()?;
        let values = PrimitiveArray::<T>::new(values.into(), nulls);
        Ok(Arc::new(values.with_data_type(self.data_type.clone())))
    }

    fn state(&mut self, which: EmitTo) -> Fallible<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(which)?])
    }

    /// Each record as a group of its own.
    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Fallible<Vec<ArrayRef>> {
        let records = values.first().map_or(0, |values| values.len());
        let data_type = self.data_type.clone();
        let mut alone = Self { totals: Vec::new(), nulls: NullState::new(), data_type };
        alone.update_batch(values, &(0..records).collect::<Vec<_>>(), filter, records)?;
        alone.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.totals.capacity() * size_of::<T::Total>() + self.nulls.size()
    }
}

/// One of many groups, which is all that there is. Its state is its value.
struct One(Exclusive);

/// Hardly ever locked: it is only there because an accumulator must be one that threads may share.
type Exclusive = Mutex<Box<dyn GroupsAccumulator>>;

impl One {
    fn new(mut groups: Box<dyn GroupsAccumulator>, data_type: &DataType) -> Fallible<Self> {
        // One record that is left out: a batch without any would make it a group with a value.
        let none = BooleanArray::from(vec![false]);
        groups.update_batch(&[new_null_array(data_type, 1)], &[0], Some(&none), 1)?;
        Ok(Self(Mutex::new(groups)))
    }

    fn groups(&mut self) -> &mut dyn GroupsAccumulator {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut()
    }
}

impl std::fmt::Debug for One {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("One")
    }
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Fallible<()> {
        let records = values.first().map_or(0, |values| values.len());
        self.groups().update_batch(values, &vec![0; records], None, 1)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Fallible<()> {
        self.update_batch(states)
    }

    fn evaluate(&mut self) -> Fallible<ScalarValue> {
        // Taking a value out empties the group, and more may come.
        let value = self.groups().evaluate(EmitTo::All)?;
        self.groups().merge_batch(std::slice::from_ref(&value), &[0], 1)?;
        ScalarValue::try_from_array(&value, 0)
    }

    fn state(&mut self) -> Fallible<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.0.lock().map_or(0, |groups| groups.size())
    }
}
