//! The shape that nearly all decimal numbers in data have, `123.456`, read without branches.
//!
//! Invariants: a number that is given is the nearest double, bit for bit what the library gives;
//! whatever is not of this shape, or lies too near the middle between two doubles to be told by 64 bits of
//! the power of ten, is refused, and the library decides. The digits come eight at a time (D. Lemire, "Number
//! parsing at a gigabyte per second", Software: Practice and Experience 51, 2021, sections 3 and 5). As
//! the fraction is filled up to sixteen digits, the exponent is always the same, and so one constant
//! does for the library's table, and nothing depends on how many digits a number has: a wrong guess of the
//! processor at the end of each number costs more than all the rest.

/// Digits after the point that are looked at.
const FRACTION: u32 = 16;

/// Integers below this, with a fraction after them, fit 64 bits.
const INTEGERS: u64 = u64::MAX / 10_u64.pow(FRACTION);

/// 2^101 / 5^16: between 2^63 and 2^64.
#[expect(clippy::cast_possible_truncation, reason = "5^16 is a little more than 2^37")]
const INVERSE: u64 = ((1_u128 << 101) / 5_u128.pow(FRACTION)) as u64;

/// Bytes that are read at most: sign, seven digits, point, fraction.
const WINDOW: usize = 25;

/// The number that the first line of `text` is, and its bytes; `None` where the library has to look: it also
/// sees exponents and more digits.
#[inline]
pub fn parse(text: &[u8]) -> Option<(f64, usize)> {
    let window: &[u8; WINDOW] = text.first_chunk()?;
    let negative = usize::from(window[0] == b'-');
    let integer = digits(window, negative)?;
    let point = first(equal(integer, b'.' ^ b'0'));
    if point == 0 || point == 8 {
        return None;
    }
    let integer = leading(integer, point) << (8 * (8 - point));
    let behind = negative + point + 1;
    let high = digits(window, behind)?;
    let low = digits(window, behind + 8)?;
    let high_length = first(no_digits(high));
    let low_length = if high_length == 8 { first(no_digits(low)) } else { 0 };
    let high = value(leading(high, high_length));
    let low = value(leading(low, low_length));
    if no_digits(integer) != 0 || value(integer) >= INTEGERS {
        return None;
    }
    let length = behind + high_length + low_length;
    if !matches!(text.get(length), Some(b'\n' | b'\r')) {
        return None;
    }
    let scaled = (value(integer) * 100_000_000 + high) * 100_000_000 + low;
    let absolute = nearest(scaled)?;
    let number = if negative == 1 { -absolute } else { absolute };
    Some((number, length))
}

/// The double nearest to `scaled` / 10^16, by the method of Eisel and Lemire (the same article, section 5).
#[inline]
fn nearest(scaled: u64) -> Option<f64> {
    if scaled == 0 {
        return Some(0.0);
    }
    let zeros = scaled.leading_zeros();
    // The exact product is more than this one, by less than 1 in the upper half.
    let wide = (u128::from(scaled << zeros) * u128::from(INVERSE)) >> 64;
    let product = u64::try_from(wide).ok()?;
    // 53 bits are kept of 63 or 64.
    let dropped = 10 + u32::from(product >= 1 << 63);
    let (half, rest) = (1 << (dropped - 1), product & ((1 << dropped) - 1));
    if rest == half - 1 {
        return None;
    }
    let mantissa = (product >> dropped) + u64::from(rest >= half);
    // Value: mantissa * 2^(dropped - 53 - zeros). The leading bit of the mantissa adds 1 to the exponent.
    let exponent = u64::from(1021 + dropped - zeros);
    Some(f64::from_bits((exponent << 52) + mantissa))
}

/// The values of the eight digits that begin at `at`, the first of them in the lowest byte; more than 9
/// for a byte that is no digit.
#[inline]
fn digits(window: &[u8; WINDOW], at: usize) -> Option<u64> {
    let bytes = window.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes) ^ 0x3030_3030_3030_3030)
}

/// The high bit of each byte that is `byte`, and perhaps of some behind the first of them.
#[inline]
fn equal(word: u64, byte: u8) -> u64 {
    let other = word ^ (0x0101_0101_0101_0101 * u64::from(byte));
    other.wrapping_sub(0x0101_0101_0101_0101) & !other & 0x8080_8080_8080_8080
}

/// The high bit of each byte that is more than 9, and perhaps of some behind the first of them.
#[inline]
fn no_digits(digits: u64) -> u64 {
    (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & 0x8080_8080_8080_8080
}

/// The number of the first byte whose high bit is set; 8 when there is none.
#[inline]
fn first(high_bits: u64) -> usize {
    (high_bits.trailing_zeros() / 8) as usize
}

/// The first bytes of a word, zeros after them.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "at most eight")]
fn leading(word: u64, bytes: usize) -> u64 {
    word & !u64::MAX.unbounded_shl(8 * bytes as u32)
}

/// The number that eight digits are.
#[inline]
fn value(digits: u64) -> u64 {
    let pairs = digits * 10 + (digits >> 8);
    let even = pairs & 0x0000_00ff_0000_00ff;
    let odd = (pairs >> 16) & 0x0000_00ff_0000_00ff;
    let value = even
        .wrapping_mul(100 + (1_000_000 << 32))
        .wrapping_add(odd.wrapping_mul(1 + (10_000 << 32)));
    value >> 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// True where both say the same of a line, in bits, or this module refuses it.
    fn agrees(line: &str) -> bool {
        let library = fast_float2::parse_partial::<f64, _>(line.as_bytes()).ok();
        let bits = |(number, length): (f64, usize)| (number.to_bits(), length);
        parse(line.as_bytes()).is_none_or(|ours| Some(bits(ours)) == library.map(bits))
    }

    fn padded(text: &str) -> String {
        format!("{text}\n0000000000000000000000000")
    }

    #[test]
    fn takes_the_usual_shape_and_no_other() {
        let taken = |text: &str| parse(padded(text).as_bytes());
        for (text, number) in [
            ("0.5", 0.5_f64),
            ("-0.0", -0.0),
            ("1.", 1.0),
            ("12.345678901234567", 12.345_678_901_234_567),
            ("1843.9999999999999999", 1844.0),
            ("0001.25", 1.25),
        ] {
            let found = taken(text).map(|(found, length)| (found.to_bits(), length));
            assert_eq!(found, Some((number.to_bits(), text.len())), "{text}");
        }
        // Beyond 64 bits, too many digits, an exponent, no digit, no point.
        for text in [
            "1844.0",
            "0.50000000000000011102230246251565",
            "1.5e3",
            "1.5_0",
            "\u{1}.5",
            "a.5",
            ".5",
            "5",
            "12345678.5",
        ] {
            assert_eq!(taken(text), None, "{text}");
        }
        assert_eq!(parse(b"1.5\n"), None, "nothing behind it to read");
    }

    /// Texts whose value is a hair from the middle between two doubles.
    fn near_the_middle() -> impl Strategy<Value = String> {
        (1_u128 << 52..1 << 53, 0_u32..11, -2_i128..=2).prop_map(|(mantissa, exponent, off)| {
            let unit = 10_u128.pow(FRACTION);
            let middle = ((2 * mantissa + 1) * unit) >> (53 - exponent);
            let scaled = middle.checked_add_signed(off).unwrap_or_default();
            format!("{}.{:016}", scaled / unit, scaled % unit)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn agrees_with_the_library(
            number in any::<f64>(), small in -2000.0..2000.0_f64, digits in "-?[0-9]{1,7}\\.[0-9]{0,17}",
            noise in "[-+.0-9eE_ \u{1}\u{7f}-\u{ff}:/]{0,24}", near in near_the_middle(),
        ) {
            for text in [number.to_string(), small.to_string(), digits, noise, near] {
                prop_assert!(agrees(&padded(&text)), "{text:?}");
            }
        }
    }
}
