//! Numbers as text: the shortest digits that read back as the same number, laid out as Python's
//! `repr` does.

/// Room for the longest number, `-1.7976931348623157e+308` and its line feed.
const NUMBER_BYTES: usize = 26;

/// Numbers that are written before the first of them is copied to its place: to read at once, and in
/// larger pieces, what was just written stalls the processor for longer than a number takes.
const BATCH: usize = 8;

/// Appends one line for each number.
pub fn encode(numbers: &[f64], out: &mut Vec<u8>) {
    out.reserve(numbers.len() * NUMBER_BYTES);
    let mut buffers: [_; BATCH] = std::array::from_fn(|_| zmij::Buffer::new());
    for batch in numbers.chunks(BATCH) {
        let mut texts = [""; BATCH];
        for ((text, buffer), number) in texts.iter_mut().zip(&mut buffers).zip(batch) {
            if is_plain(*number) {
                *text = buffer.format_finite(*number);
            }
        }
        for (text, number) in texts.iter().zip(batch) {
            if text.is_empty() {
                write(*number, out);
            } else {
                out.extend_from_slice(text.as_bytes());
            }
            out.push(b'\n');
        }
    }
}

/// True between the bounds where the library's layout and Python's agree.
fn is_plain(number: f64) -> bool {
    (1e-4..1e16).contains(&number.abs())
}

/// Appends one number.
#[inline]
pub fn write(number: f64, out: &mut Vec<u8>) {
    let mut buffer = zmij::Buffer::new();
    if is_plain(number) {
        out.extend_from_slice(buffer.format_finite(number).as_bytes());
    } else {
        encode_odd(number, &mut buffer, out);
    }
}

/// Appends a number of single precision: fewer digits tell it from its neighbours.
pub fn write_single(number: f32, out: &mut Vec<u8>) {
    if (1e-4..1e16).contains(&number.abs()) {
        out.extend_from_slice(zmij::Buffer::new().format_finite(number).as_bytes());
    } else if number.is_finite() && number != 0.0 {
        if number.is_sign_negative() {
            out.push(b'-');
        }
        encode_scientific(zmij::Buffer::new().format_finite(number.abs()), out);
    } else {
        write(number.into(), out);
    }
}

/// Zero, what is not finite, and what Python writes with an exponent.
fn encode_odd(number: f64, buffer: &mut zmij::Buffer, out: &mut Vec<u8>) {
    if number.is_nan() {
        out.extend_from_slice(b"nan");
        return;
    }
    if number.is_sign_negative() {
        out.push(b'-');
    }
    let size = number.abs();
    if size.is_infinite() {
        out.extend_from_slice(b"inf");
    } else if size == 0.0 {
        out.extend_from_slice(b"0.0");
    } else {
        encode_scientific(buffer.format_finite(size), out);
    }
}

/// Rewrites `0.00001234`, `1e-7` or `1.5e+300` as Python does: one digit before the point, no
/// `.0`, and an exponent of at least two digits with its sign.
fn encode_scientific(text: &str, out: &mut Vec<u8>) {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let digits = [whole, fraction].concat();
    let leading_zeros = digits.len() - digits.trim_start_matches('0').len();
    let digits = digits.trim_matches('0');
    let point = i32::try_from(whole.len()).unwrap_or_default();
    let zeros = i32::try_from(leading_zeros).unwrap_or_default();
    let exponent = exponent + point - zeros - 1;
    let (first, rest) = digits.split_at(1);
    let dot = if rest.is_empty() { "" } else { "." };
    let sign = if exponent < 0 { '-' } else { '+' };
    out.extend_from_slice(format!("{first}{dot}{rest}e{sign}{:02}", exponent.abs()).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_python_writes() {
        for (number, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.000_099, "9.9e-05"),
            (1e-5, "1e-05"),
            (1.234e-5, "1.234e-05"),
            (1e-7, "1e-07"),
            (1e15, "1000000000000000.0"),
            (9_007_199_254_740_993.0, "9007199254740992.0"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e22, "1e+22"),
            (-1.5e300, "-1.5e+300"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            let mut out = Vec::new();
            // Among others, and on both sides of where a batch ends.
            encode(&[&[0.5; 7][..], &[number; 2], &[2.5]].concat(), &mut out);
            let lines = format!("{}{text}\n{text}\n2.5\n", "0.5\n".repeat(7));
            assert_eq!(String::from_utf8(out).unwrap(), lines);
        }
    }
}
