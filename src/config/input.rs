//! `[input]` as it is used: which files are taken, and how their bytes are cut into records.

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use regex::bytes::Regex;

use super::{Problem, file};
use crate::decode;
use crate::decode::frame::{self, Framing};
use crate::source::folder::globs;
use crate::source::folder::rules::{Complete, Rules, never_taken};
use crate::transform::Transform;

pub fn rules(input: &file::Input) -> Result<Rules, Problem> {
    Ok(Rules {
        pattern: glob("input.pattern", &input.pattern)?.compile_matcher(),
        exclude: exclude(&input.exclude)?,
        recursive: input.recursive,
        watch: input.watch,
        rescan: input.rescan.0,
        order: input.order,
        settle: input.settle.0,
        complete: input.complete.as_ref().map(complete).transpose()?,
        incomplete_grace: input.incomplete_grace.0,
        hard_links: input.hard_links,
        end_marker: input.end_marker.clone().map(String::into_bytes),
    })
}

fn glob(key: &'static str, text: &str) -> Result<Glob, Problem> {
    GlobBuilder::new(text)
        .literal_separator(true)
        .build()
        .map_err(|error| Problem::new(key, format!("found \"{text}\", {}", error.kind())))
}

fn exclude(all: &[String]) -> Result<GlobSet, Problem> {
    let mut set = GlobSetBuilder::new();
    for text in all {
        set.add(glob("input.exclude", text)?);
    }
    set.build().map_err(|error| Problem::new("input.exclude", error.to_string()))
}

/// There must be a name that the job could take.
pub fn check_pattern(input: &file::Input) -> Result<(), Problem> {
    let pattern = &input.pattern;
    if pattern.contains('/') && !pattern.starts_with("**/") {
        let message = format!(
            "found \"{pattern}\", expected a pattern without a slash: it is held against the name of a \
             file, without its folder"
        );
        return Err(Problem::new("input.pattern", message));
    }
    let patterns: Vec<String> = never_taken().into_iter().chain(input.exclude.clone()).collect();
    let never: Vec<&str> = patterns.iter().map(String::as_str).collect();
    if globs::common(&[pattern], &never).is_some() {
        return Ok(());
    }
    let message = format!(
        "found \"{pattern}\", which matches no name that is ever taken: hidden, processed, failed and \
         unfinished files are not, nor what `input.exclude` names"
    );
    Err(Problem::new("input.pattern", message))
}

fn complete(rule: &file::Complete) -> Result<Complete, Problem> {
    Ok(match rule {
        file::Complete::Lines(lines) => Complete::Lines(*lines),
        file::Complete::Marker(suffix) if suffix.is_empty() || suffix.contains('/') => {
            let message = format!("found \"{suffix}\", expected a suffix such as \".done\"");
            return Err(Problem::new("input.complete.marker", message));
        }
        file::Complete::Marker(suffix) => Complete::Marker(suffix.clone()),
        file::Complete::Trailer(text) => Complete::Trailer(Regex::new(text).map_err(|error| {
            let message = format!("found \"{text}\", expected a regular expression: {error}");
            Problem::new("input.complete.trailer", message)
        })?),
    })
}

pub fn framing(written: &file::File, workers: usize) -> Result<Framing, Problem> {
    let input = &written.input;
    if let Some(marker) = &input.end_marker
        && (marker.is_empty() || marker.contains(['\n', '\r']))
    {
        let message = format!("found {marker:?}, expected the text of one record");
        return Err(Problem::new("input.end_marker", message));
    }
    let max_record = usize::try_from(input.max_record.0)
        .map_err(|_| Problem::new("input.max_record", "is too large for this machine"))?;
    Ok(Framing {
        max_record,
        end_marker: input.end_marker.as_ref().map(|marker| marker.clone().into_bytes()),
        // A command gets lines as they stand in the file, to the last byte.
        skip_byte_order_mark: !(matches!(written.transform, Transform::Command(_))
            && matches!(input.format, decode::Format::Lines {})),
        block_bytes: frame::block_bytes(written.engine.memory.0, workers),
        dialect: input.format.dialect(),
    })
}
