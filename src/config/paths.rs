//! Paths, compared as what they lead to.

use super::{Problem, file};
use crate::source::folder::archive::Action;
use std::path::{Component, Path, PathBuf};

/// The path without `.` and `..`, by its text.
pub fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut normal, component| {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
        normal
    })
}

/// The path with symbolic links resolved as far as it exists.
pub fn resolved(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(resolved), ..) => resolved,
        (Err(_), Some(parent), Some(name)) => resolved(parent).join(name),
        _ => path.to_owned(),
    }
}

/// No shell reads a path: `~` and variables in it would be names of folders.
pub fn check_paths(written: &file::File) -> Result<(), Problem> {
    let archive = match &written.done.action {
        Action::Move(path) => Some(path),
        Action::Rename | Action::Delete => None,
    };
    let late = written.event_time.as_ref().and_then(|event_time| event_time.late.as_ref());
    let mut paths = vec![
        ("input.directory", 0, written.input.directory.as_ref()),
        ("output.path", 0, written.output.path.as_ref()),
        ("rejects.path", 0, written.rejects.path.as_ref()),
        ("state.directory", 0, written.state.directory.as_ref()),
        ("done.action", 0, archive),
        ("event_time.late", 0, late),
    ];
    let tables = written.table.iter().map(|table| ("table.path", &table.path));
    let views = written.view.iter().map(|view| ("view.path", &view.path));
    let finals = written.finals.iter().map(|made| ("final.path", &made.path));
    for (key, place, path) in tables
        .enumerate()
        .chain(views.enumerate())
        .chain(finals.enumerate())
        .map(|(place, (key, path))| (key, place, path))
    {
        paths.push((key, place, Some(path)));
    }
    for (key, place, path) in paths {
        let Some(path) = path else { continue };
        let text = path.to_string_lossy();
        let begins_at_home = text == "~" || text.starts_with("~/");
        let has_variable = text.split('$').skip(1).any(|after| {
            after.starts_with(|next: char| next == '{' || next == '_' || next.is_ascii_alphabetic())
        });
        if begins_at_home || has_variable {
            let message = format!(
                "found \"{text}\": `~` and variables are not replaced in a path; write the folder itself"
            );
            return Err(Problem::new(key, message).at(place));
        }
    }
    Ok(())
}
