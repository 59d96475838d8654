//! In which formats records go to a command and come back.

use crate::{decode, sink};

/// The format in which a command gets what was decoded.
pub fn sink_of(format: &decode::Format) -> sink::Format {
    match format {
        decode::Format::Numbers {} => sink::Format::Numbers {},
        decode::Format::Lines {} => sink::Format::Lines {},
        #[cfg(feature = "sql")]
        decode::Format::Csv(csv) => {
            let delimiter = csv.delimiter;
            sink::Format::Csv(sink::csv::Csv { header: false, delimiter })
        }
        #[cfg(feature = "sql")]
        decode::Format::Json(_) => sink::Format::Json {},
        #[cfg(feature = "sql")]
        decode::Format::Parquet(_) => {
            sink::Format::Csv(sink::csv::Csv { header: false, ..Default::default() })
        }
    }
}

/// The format in which a command gives what is encoded: a line is passed on as it is.
pub fn decode_of(format: sink::Format) -> decode::Format {
    match format {
        sink::Format::Numbers {} => decode::Format::Numbers {},
        sink::Format::Lines {} => decode::Format::Lines {},
        #[cfg(feature = "sql")]
        sink::Format::Csv(_) | sink::Format::Json {} | sink::Format::Parquet(_) => {
            decode::Format::Lines {}
        }
    }
}
