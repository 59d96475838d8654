//! Every byte of an input is in exactly one block, in order, and the verdict on a record does not
//! depend on where the input is cut.
#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use spoolmill::decode::frame::{Framer, Framing, Kind};
use spoolmill::decode::lines;

/// Gives at most so many bytes for each read.
struct Slow<'a>(&'a [u8], usize);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let step = self.1.min(buffer.len()).min(self.0.len());
        let (now, later) = self.0.split_at(step);
        buffer[..step].copy_from_slice(now);
        self.0 = later;
        Ok(step)
    }
}

/// Good records and rejects, whichever blocks they came in.
fn verdicts(input: &[u8], block_bytes: usize, step: usize) -> (Vec<u8>, usize, usize) {
    let framing = Framing {
        max_record: 40,
        end_marker: Some(b"EOF".to_vec()),
        skip_byte_order_mark: false,
        block_bytes,
        dialect: None,
    };
    let mut framer = Framer::bounded(Box::new(Slow(input, step)), &framing, u64::MAX);
    let (mut good, mut bad, mut behind) = (Vec::new(), 0, 0);
    while let Some(block) = framer.next_block().unwrap() {
        match block.kind {
            Kind::Records => {
                let decoded = lines::decode(&block.bytes, framing.max_record);
                bad += decoded.rejects.len();
                spoolmill::sink::Format::Lines {}.encode(&decoded.records, &mut good).unwrap();
            }
            Kind::TooLong => bad += 1,
            Kind::EndMarker => {}
            Kind::AfterEnd => behind += block.bytes.iter().filter(|byte| **byte == b'\n').count(),
        }
    }
    (good, bad, behind)
}

fuzz_target!(|data: &[u8]| {
    let [block, step, input @ ..] = data else { return };
    let whole = verdicts(input, 1 << 20, 1 << 20);
    let cut = verdicts(input, usize::from(*block) + 512, usize::from(*step) + 1);
    assert_eq!(whole.0, cut.0);
    assert_eq!(whole.1 == 0, cut.1 == 0);
});
