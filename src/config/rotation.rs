//! When the output of a job is closed and a new one begins.

use super::file::{Compress, File};
use super::{Config, Problem};
use crate::publish::rotation::{self, Rule};

impl Config {
    /// When the output is closed, if ever.
    pub fn rotation(&self) -> Option<Rule> {
        let rotate = self.written.output.rotate?;
        let every_ms =
            rotate.every.map(|every| i64::try_from(every.0.as_millis()).unwrap_or(i64::MAX));
        let compress = rotate.compress.map(|compress| match compress {
            Compress::Gzip => rotation::Compress::Gzip,
            Compress::Zstd => rotation::Compress::Zstd,
        });
        let min_free = self.written.engine.min_free.0;
        Some(Rule { size: rotate.size.map(|size| size.0), every_ms, compress, min_free })
    }
}

/// What is closed must be one file, and nobody may want it whole.
pub fn check(written: &File) -> Result<(), Problem> {
    let Some(rotate) = &written.output.rotate else { return Ok(()) };
    let problem = |message: &str| Err(Problem::new("output.rotate", message));
    if rotate.size.is_none() && rotate.every.is_none() {
        return problem("found neither `size` nor `every`, expected one of them");
    }
    if rotate.size.is_some_and(|size| size.0 == 0)
        || rotate.every.is_some_and(|every| every.0.as_millis() == 0)
    {
        return problem("found 0, expected a larger `size` and a longer `every`");
    }
    if written.output.format.is_columnar() {
        return problem(
            "is for outputs that are one file: parquet makes a file for each microbatch",
        );
    }
    #[cfg(feature = "sql")]
    if !written.finals.is_empty() {
        return problem("does not go with [[final]], which is made of the whole output");
    }
    Ok(())
}
