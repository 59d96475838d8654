//! The quotient of decimals, which is a decimal.
//!
//! Invariants: a quotient has at least six digits after the point, and four more than its dividend;
//! what 38 digits do not hold is an error.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Decimal128Type;
use arrow_array::{Array as _, ArrayRef, Decimal128Array};
use arrow_schema::{DECIMAL128_MAX_PRECISION, DataType};
use datafusion::common::{DataFusionError, Result as Fallible};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::error::failed;

/// Digits after the point that a quotient of decimals has at least.
const QUOTIENT_SCALE: i8 = 6;

/// Digits after the point that a quotient has more than its dividend.
const MORE_SCALE: i8 = 4;

/// The quotient of two decimals, rounded half away from zero.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Quotient {
    signature: Signature,
}

impl Quotient {
    /// The function.
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

fn quotient_type(dividend: &DataType, divisor: &DataType) -> Fallible<DataType> {
    let (DataType::Decimal128(precision, scale), DataType::Decimal128(_, other)) =
        (dividend, divisor)
    else {
        return Err(DataFusionError::Plan("a quotient of decimals has two of them".to_owned()));
    };
    let whole = i16::from(*precision) - i16::from(*scale) + i16::from(*other);
    let most = i16::from(DECIMAL128_MAX_PRECISION);
    let wanted = i16::from(scale.saturating_add(MORE_SCALE).max(QUOTIENT_SCALE));
    let scale = wanted.min((most - whole).max(i16::from(QUOTIENT_SCALE)));
    let digits = (whole + scale).clamp(scale.max(1), most);
    let precision = u8::try_from(digits).unwrap_or(DECIMAL128_MAX_PRECISION);
    Ok(DataType::Decimal128(precision, i8::try_from(scale).unwrap_or(QUOTIENT_SCALE)))
}

impl ScalarUDFImpl for Quotient {
    fn name(&self) -> &'static str {
        "decimal_quotient"
    }

    fn schema_name(&self, arguments: &[Expr]) -> Fallible<String> {
        let names: Vec<_> =
            arguments.iter().map(|argument| argument.schema_name().to_string()).collect();
        Ok(names.join(" / "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Fallible<DataType> {
        match arguments {
            [dividend, divisor] => quotient_type(dividend, divisor),
            _ => Err(DataFusionError::Plan("a quotient has two sides".to_owned())),
        }
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Fallible<Vec<DataType>> {
        Ok(arguments.to_vec())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Fallible<ColumnarValue> {
        let rows = arguments.number_rows;
        let arrays = arguments
            .args
            .iter()
            .map(|value| value.to_array(rows))
            .collect::<Fallible<Vec<ArrayRef>>>()?;
        let [dividends, divisors] = arrays.as_slice() else {
            return Err(failed("a quotient has two sides".to_owned()));
        };
        let kind = quotient_type(dividends.data_type(), divisors.data_type())?;
        let DataType::Decimal128(precision, scale) = kind else {
            return Err(failed("a quotient is a decimal".to_owned()));
        };
        let (dividends, divisors) =
            (dividends.as_primitive::<Decimal128Type>(), divisors.as_primitive::<Decimal128Type>());
        let shift = i16::from(scale) + i16::from(divisors.scale()) - i16::from(dividends.scale());
        let one = |row: usize| -> Fallible<Option<i128>> {
            if dividends.is_null(row) || divisors.is_null(row) {
                return Ok(None);
            }
            quotient(dividends.value(row), divisors.value(row), shift).map(Some)
        };
        let plain: Decimal128Array = (0..dividends.len()).map(one).collect::<Fallible<_>>()?;
        let quotients = plain.with_precision_and_scale(precision, scale)?;
        quotients.validate_decimal_precision(precision)?;
        Ok(ColumnarValue::Array(Arc::new(quotients)))
    }
}

/// `dividend` times ten to the power of `shift`, divided and rounded half away from zero.
fn quotient(dividend: i128, divisor: i128, shift: i16) -> Fallible<i128> {
    type I256 = <arrow_array::types::Decimal256Type as arrow_array::ArrowPrimitiveType>::Native;
    let too_large = || failed("a quotient is too large for 38 digits".to_owned());
    if divisor == 0 {
        return Err(failed("division by zero".to_owned()));
    }
    let power = I256::from(10).checked_pow(shift.unsigned_abs().into()).ok_or_else(too_large)?;
    let wide = I256::from_i128(dividend);
    let divisor = I256::from_i128(divisor);
    let (wide, divisor) = if shift < 0 {
        (Some(wide), divisor.checked_mul(power))
    } else {
        (wide.checked_mul(power), Some(divisor))
    };
    let wide = wide.ok_or_else(too_large)?;
    let divisor = divisor.ok_or_else(too_large)?;
    let (whole, rest) = (
        wide.checked_div(divisor).ok_or_else(too_large)?,
        wide.checked_rem(divisor).ok_or_else(too_large)?,
    );
    let zero = I256::from(0);
    let magnitude = |value: I256| if value < zero { zero - value } else { value };
    let rounds = magnitude(rest) >= magnitude(divisor) - magnitude(rest);
    let is_negative = (wide < zero) != (divisor < zero);
    let step = I256::from(if is_negative { -1 } else { 1 });
    let rounded = if rounds { whole + step } else { whole };
    rounded.to_i128().ok_or_else(too_large)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_rounded_half_away_from_zero() {
        for (dividend, divisor, shift, expected) in [
            (500, 300, 6, 1_666_667),
            (-500, 300, 6, -1_666_667),
            (1, 2, 0, 1),
            (-1, 2, 0, -1),
            (1, 3, 0, 0),
            (7, -2, 0, -4),
            (5_000_000_000, 1, -3, 5_000_000),
            (1499, 1, -3, 1),
            (1500, 1, -3, 2),
        ] {
            assert_eq!(quotient(dividend, divisor, shift).unwrap(), expected, "{dividend}");
        }
        assert!(quotient(1, 0, 0).is_err());
        assert!(quotient(i128::MAX, 1, 30).is_err());
    }
}
