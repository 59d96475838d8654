//! When the outputs of a job are closed and new ones begin.

use super::file::{Compress, File, Rotate};
use super::{Config, Problem};
use crate::publish::rotation::{self, Rule};

impl Config {
    /// When the output is closed, if ever.
    pub fn rotation(&self) -> Option<Rule> {
        self.written.output.rotate.map(|rotate| self.rule(&rotate))
    }

    /// When the rejects and the late records are closed, if ever.
    pub fn rejects_rotation(&self) -> Option<Rule> {
        self.written.rejects.rotate.map(|rotate| self.rule(&rotate))
    }

    fn rule(&self, rotate: &Rotate) -> Rule {
        let every_ms =
            rotate.every.map(|every| i64::try_from(every.0.as_millis()).unwrap_or(i64::MAX));
        let compress = rotate.compress.map(|compress| match compress {
            Compress::Gzip => rotation::Compress::Gzip,
            Compress::Zstd => rotation::Compress::Zstd,
        });
        Rule {
            size: rotate.size.map(|size| size.0),
            every_ms,
            compress,
            min_free: self.written.engine.min_free.0,
            keep: rotate.keep,
        }
    }
}

/// Checks that an output that is rotated is one file, and that nothing needs it whole.
pub fn check(written: &File) -> Result<(), Problem> {
    if let Some(rotate) = &written.rejects.rotate {
        check_limits("rejects.rotate", rotate)?;
    }
    let Some(rotate) = &written.output.rotate else { return Ok(()) };
    check_limits("output.rotate", rotate)?;
    let problem = |message: &str| Err(Problem::new("output.rotate", message));
    if written.output.format.is_columnar() {
        return problem(
            "is for outputs that are one file: parquet makes a file for each microbatch",
        );
    }
    if !written.finals.is_empty() {
        return problem("does not go with [[final]], which is made of the whole output");
    }
    Ok(())
}

/// Something must close the file, and each limit must be one.
fn check_limits(key: &'static str, rotate: &Rotate) -> Result<(), Problem> {
    let problem = |message: &str| Err(Problem::new(key, message));
    if rotate.size.is_none() && rotate.every.is_none() {
        return problem("found neither `size` nor `every`, expected one of them");
    }
    if rotate.size.is_some_and(|size| size.0 == 0)
        || rotate.every.is_some_and(|every| every.0.as_millis() == 0)
    {
        return problem("found 0, expected a larger `size` and a longer `every`");
    }
    Ok(())
}
