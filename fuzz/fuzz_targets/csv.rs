//! Every record of a CSV input is in the output or in the rejects, and the verdict on it does not
//! depend on where the input is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spoolmill::decode::Format;
use spoolmill::decode::csv::Csv;
use spoolmill::decode::frame::{self, Framer, Framing, Kind};
use spoolmill::record::columns::{Columns, Type};

const MAX_RECORD: usize = 60;

/// Good records as text, and line and reason of each bad one.
fn verdicts(format: &Format, input: &[u8], block_bytes: usize) -> (Vec<u8>, Vec<(u64, String)>) {
    let framing = Framing {
        max_record: MAX_RECORD,
        end_marker: None,
        skip_byte_order_mark: false,
        block_bytes,
        dialect: format.dialect(),
    };
    let mut framer = Framer::bounded(Box::new(input), &framing, u64::MAX);
    let (decoder, _) = format.decoder(&[], MAX_RECORD).unwrap();
    let (mut good, mut bad, mut lines) = (Vec::new(), Vec::new(), 0);
    while let Some(block) = framer.next_block().unwrap() {
        if block.kind == Kind::TooLong {
            bad.push((lines + 1, frame::TOO_LONG.to_owned()));
            lines += frame::lines_too_long(&block.bytes);
            continue;
        }
        let decoded = decoder.decode(&block.bytes, MAX_RECORD);
        for reject in decoded.rejects {
            bad.push((lines + reject.line.unwrap(), reject.reason.into_owned()));
        }
        lines += decoded.lines;
        spoolmill::sink::Format::Json {}.encode(&decoded.records, &mut good).unwrap();
    }
    (good, bad)
}

fuzz_target!(|data: &[u8]| {
    let [block, input @ ..] = data else { return };
    let columns = [("a", Type::Bigint), ("b", Type::Varchar), ("c", Type::Double)];
    let columns = Columns(columns.map(|(name, kind)| (name.to_owned(), kind)).to_vec());
    let format = Format::Csv(Csv { header: false, columns, ..Csv::default() });
    let whole = verdicts(&format, input, 1 << 20);
    assert_eq!(whole, verdicts(&format, input, usize::from(*block) + 1));
});
