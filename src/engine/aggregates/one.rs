//! A function over one group, by its states for many.

use std::mem::size_of;
use std::sync::{Mutex, PoisonError};

use arrow_array::{Array, ArrayRef, BooleanArray, new_null_array};
use arrow_schema::DataType;
use datafusion::arrow::compute::sort;
use datafusion::common::{Result as Fallible, ScalarValue};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

use super::{Own, lost};

/// One of many groups, which is all that there is.
pub(super) struct One(Exclusive);

/// Hardly ever locked: it is only there because an accumulator must be one that threads may share.
type Exclusive = Mutex<Own>;

impl One {
    pub(super) fn new(mut groups: Own, inputs: &[DataType]) -> Fallible<Self> {
        // One record that is left out: a batch without any would make it a group with a value.
        let none = BooleanArray::from(vec![false]);
        let nulls: Vec<_> = inputs.iter().map(|input| new_null_array(input, 1)).collect();
        groups.update_batch(&nulls, &[0], Some(&none), 1)?;
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
        let records = values.first().map_or(0, Array::len);
        self.groups().update_batch(values, &vec![0; records], None, 1)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Fallible<()> {
        let records = states.first().map_or(0, Array::len);
        self.groups().merge_batch(states, &vec![0; records], 1)
    }

    fn evaluate(&mut self) -> Fallible<ScalarValue> {
        // Taking a value out empties the group, and more may come.
        let state = self.groups().state(EmitTo::All)?;
        self.groups().merge_batch(&state, &[0], 1)?;
        let value = self.groups().evaluate(EmitTo::All)?;
        self.groups().merge_batch(&state, &[0], 1)?;
        ScalarValue::try_from_array(&value, 0)
    }

    fn state(&mut self) -> Fallible<Vec<ScalarValue>> {
        let state = self.groups().state(EmitTo::All)?;
        self.groups().merge_batch(&state, &[0], 1)?;
        state.iter().map(|column| ScalarValue::try_from_array(column, 0)).collect()
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.0.lock().map_or(0, |groups| groups.size())
    }
}

/// An aggregate over distinct values. The engine keeps the values.
pub(super) struct Distinct {
    inner: Box<dyn Accumulator>,
    of: Exclusive,
}

impl Distinct {
    pub(super) fn new(inner: Box<dyn Accumulator>, of: Own) -> Self {
        Self { inner, of: Mutex::new(of) }
    }
}

impl std::fmt::Debug for Distinct {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("Distinct")
    }
}

impl Accumulator for Distinct {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Fallible<()> {
        self.inner.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Fallible<()> {
        self.inner.merge_batch(states)
    }

    fn evaluate(&mut self) -> Fallible<ScalarValue> {
        let state = self.inner.state()?.into_iter().next().ok_or_else(lost)?;
        let ScalarValue::List(values) = state else { return Err(lost()) };
        // In one order, whatever the one is in which they are kept.
        let values = sort(&values.value(0), None)?;
        let groups = self.of.get_mut().unwrap_or_else(PoisonError::into_inner);
        if values.is_empty() {
            let none = BooleanArray::from(vec![false]);
            groups.update_batch(&[new_null_array(values.data_type(), 1)], &[0], Some(&none), 1)?;
        } else {
            let records = values.len();
            groups.update_batch(&[values], &vec![0; records], None, 1)?;
        }
        ScalarValue::try_from_array(&groups.evaluate(EmitTo::All)?, 0)
    }

    fn state(&mut self) -> Fallible<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.inner.size()
    }
}
