//! In which formats records go to a command and come back.

use crate::{decode, encode};

/// The format in which a command gets what was decoded.
pub fn sink_of(format: &decode::Format) -> encode::Format {
    match format {
        decode::Format::Numbers {} => encode::Format::Numbers {},
        decode::Format::Lines {} => encode::Format::Lines {},
        decode::Format::Csv(csv) => {
            let delimiter = csv.delimiter;
            encode::Format::Csv(encode::csv::Csv { header: false, delimiter })
        }
        decode::Format::Json(_) => encode::Format::Json {},
        #[cfg(feature = "parquet")]
        decode::Format::Parquet(_) => {
            encode::Format::Csv(encode::csv::Csv { header: false, ..Default::default() })
        }
    }
}

/// True when records that pass as they are may be copied from an input of this format as they stand in
/// it, where a decoder says that they are written so.
pub fn is_alike(format: &decode::Format, encode: encode::Format) -> bool {
    match (format, encode) {
        (decode::Format::Csv(from), encode::Format::Csv(to)) => from.delimiter == to.delimiter,
        _ => false,
    }
}

/// The format in which a command gives what is encoded: a line is passed on as it is.
pub fn decode_of(format: encode::Format) -> decode::Format {
    match format {
        encode::Format::Numbers {} => decode::Format::Numbers {},
        encode::Format::Lines {} => decode::Format::Lines {},
        encode::Format::Csv(_) | encode::Format::Json {} => decode::Format::Lines {},
        #[cfg(feature = "parquet")]
        encode::Format::Parquet(_) => decode::Format::Lines {},
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Decoded;

    const COLUMNS: &str = "header = false\n[columns]\na = \"varchar\"\nb = \"bigint\"\nc = \"smallint\"\n\
        d = \"timestamp\"\ne = \"timestamptz\"\n";

    /// Decodes a block, and encodes the records again.
    fn there_and_back(columns: &str, block: &[u8]) -> (Decoded, Vec<u8>) {
        let csv: decode::csv::Csv = toml::from_str(columns).unwrap();
        let format = decode::Format::Csv(csv.clone());
        let (decoder, _) = csv.decoder(block, 1000).unwrap();
        let decoded = decoder.decode(block, 1000);
        let mut written = Vec::new();
        sink_of(&format).encode(&decoded.records, &mut written).unwrap();
        (decoded, written)
    }

    #[test]
    fn what_is_written_as_it_came_is_known() {
        for (block, expected) in [
            ("a b,1,-1,2024-02-29 00:00:00,0000-01-01 23:59:59\n,,,,\nx,0,10,,\n", true),
            ("ä b,1,0,,\n", false),
            ("a,01,0,,\n", false),
            ("a,1,-0,,\n", false),
            ("a,1,0,2024-02-29T00:00:00,\n", false),
            ("a,1,0,,2024-02-29 00:00:00Z\n", false),
            ("a ,1,0,,\n", false),
            ("\"a\",1,0,,\n", false),
            ("a,1,0,,\r\n", false),
            ("a,1,0,,\n\n", false),
            ("a,1,0,,", false),
            ("a,1,0,,\nb,x,0,,\n", false),
            ("a,1,0,,\nb\n", false),
        ] {
            let (decoded, written) = there_and_back(COLUMNS, block.as_bytes());
            assert_eq!(decoded.is_as_written, expected, "{block}");
            assert!(!expected || written == block.as_bytes(), "{block}");
        }
        // What a job leaves out is not written.
        let fewer = "[columns]\nb = \"bigint\"\n";
        let csv: decode::csv::Csv = toml::from_str(fewer).unwrap();
        let (decoder, _) = csv.decoder(b"a,b\n", 1000).unwrap();
        assert!(!decoder.decode(b"1,2\n", 1000).is_as_written);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn what_is_copied_is_what_would_be_written(
            records in prop::collection::vec(
                (
                    "[a-cé]?[a \"\t,]?[a\u{a0}]?",
                    "[+-]?(0|[0-9]{1,3}|9223372036854775807)| 7|7 ",
                    "-?[0-9]?",
                    "(20[0-9]{2}-[01][0-9]-0[1-9][ T][0-2][0-9]:[0-5][0-9]:0[0-9][Z.]?0?)?",
                    "(2024-02-29 00:00:00)?",
                    "\r?\n|\n|\n",
                ),
                1..4,
            ),
        ) {
            let line = |(a, b, c, d, e, end)| format!("{a},{b},{c},{d},{e}{end}");
            let block: String = records.into_iter().map(line).collect();
            let (decoded, written) = there_and_back(COLUMNS, block.as_bytes());
            if decoded.is_as_written {
                prop_assert_eq!(written, block.as_bytes());
            }
        }
    }
}
