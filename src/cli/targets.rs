//! Where a batch writes what a job makes beside its output.
//!
//! Invariants: no file that the job's ledger counts on, or that a running job holds, is replaced; who
//! wants a result names another file for it.

use std::fs::File;
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::config::{Config, Problem};
use crate::durable;

#[derive(Debug, Args)]
pub struct Targets {
    /// Write the result of this view to PATH; that of a final is named by its file, with or without suffix
    #[arg(long = "view", value_name = "NAME=PATH")]
    views: Vec<String>,
    /// Make no views and no finals
    #[arg(long, conflicts_with = "views")]
    no_views: bool,
    /// Write rejects to PATH; `-` is standard error
    #[arg(long, value_name = "PATH")]
    rejects: Option<PathBuf>,
    /// Write late records to PATH; in a batch nothing is late
    #[arg(long, value_name = "PATH")]
    late: Option<PathBuf>,
}

impl Targets {
    /// Puts what was asked for in the place of what the job says, and takes the locks of what is replaced.
    pub fn apply(&self, config: &mut Config, output: Option<&PathBuf>) -> anyhow::Result<Held> {
        let owned = owned(config);
        if let Some(output) = output {
            may_replace(config, &owned, "output.path", output, "-o PATH")?;
        }
        self.redirect(config)?;
        let mut held = Held { locks: Vec::new(), rejects: None, left_alone: Vec::new() };
        held.take_results(config, &owned)?;
        match &self.rejects {
            Some(path) if path.as_os_str() == "-" => config.rejects = None,
            Some(path) => {
                let path = std::path::absolute(path)?;
                may_replace(config, &owned, "rejects.path", &path, "--rejects PATH")?;
                held.locks.extend(locks(&path, "--rejects PATH")?);
                config.rejects = Some(path);
            }
            // Whether there are any is known only when they come.
            None => {
                let way = "--rejects PATH, or `--rejects -` for standard error";
                let own = config.rejects.as_ref().filter(|path| is_owned(path, &owned));
                held.rejects = own.map(|path| refusal(path, way));
                if let (None, Some(path)) = (own, &config.rejects) {
                    held.locks.extend(locks(path, way)?);
                }
            }
        }
        if let Some(output) = output {
            held.locks.extend(locks(output, "-o PATH")?);
        }
        check_distinct(config, output)?;
        Ok(held)
    }

    fn redirect(&self, config: &mut Config) -> anyhow::Result<()> {
        if self.no_views {
            config.written.view.clear();
            config.written.finals.clear();
        }
        if let (Some(late), Some(event_time)) = (&self.late, &mut config.written.event_time) {
            event_time.late = Some(std::path::absolute(late)?);
        }
        for given in &self.views {
            let (name, path) = given
                .split_once('=')
                .with_context(|| format!("--view: found `{given}`, expected NAME=PATH"))?;
            let path = std::path::absolute(path)?;
            let written = &mut config.written;
            if let Some(view) = written.view.iter_mut().find(|view| view.name == name) {
                view.path = path;
            } else if let Some(made) =
                written.finals.iter_mut().find(|made| is_named(&made.path, name))
            {
                made.path = path;
            } else {
                let message = format!("--view: the job has no view or final `{name}`");
                return Err(config.problem(&Problem::new("view", message)).into());
            }
        }
        Ok(())
    }
}

/// The locks that a batch holds while it runs, and the outputs that it leaves alone.
pub struct Held {
    /// No job starts that writes there.
    locks: Vec<File>,
    /// Why no reject can be written, if so.
    pub rejects: Option<String>,
    /// Why results are not made.
    left_alone: Vec<String>,
}

impl Held {
    /// Takes what is owned out of the job, and the locks of the rest.
    fn take_results(&mut self, config: &mut Config, owned: &[PathBuf]) -> anyhow::Result<()> {
        let way = |name: &str| format!("--view {name}=PATH, or --no-views");
        let mut views = std::mem::take(&mut config.written.view);
        views.retain(|view| self.may_make(&config.absolute(&view.path), owned, &way(&view.name)));
        let mut finals = std::mem::take(&mut config.written.finals);
        finals.retain(|made| {
            let path = config.absolute(&made.path);
            // One that was never made is nobody's.
            path.try_exists().is_ok_and(|is_there| !is_there) || {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                self.may_make(&path, owned, &way(&name))
            }
        });
        let paths = views
            .iter()
            .map(|view| (&view.path, view.name.clone()))
            .chain(finals.iter().map(|made| (&made.path, "NAME".to_owned())));
        for (path, name) in paths {
            self.locks.extend(locks(&config.absolute(path), &way(&name))?);
        }
        (config.written.view, config.written.finals) = (views, finals);
        Ok(())
    }

    fn may_make(&mut self, path: &PathBuf, owned: &[PathBuf], way: &str) -> bool {
        let is_free = !is_owned(path, owned);
        if !is_free {
            self.left_alone.push(refusal(path, way));
        }
        is_free
    }

    /// The end of the batch.
    ///
    /// # Errors
    /// When a result was left alone.
    pub fn finish(self, config: &Config) -> anyhow::Result<()> {
        drop(self.locks);
        if self.left_alone.is_empty() {
            return Ok(());
        }
        Err(config.problem(&Problem::new("view.path", self.left_alone.join("; "))).into())
    }
}

fn refusal(path: &Path, way: &str) -> String {
    format!(
        "{} belongs to the ledger of the job, and a batch leaves it alone: {way}",
        path.display()
    )
}

fn is_named(path: &Path, name: &str) -> bool {
    [path.file_name(), path.file_stem()].contains(&Some(name.as_ref()))
}

/// The state directory and the files of the job, where there is a ledger that counts on them.
fn owned(config: &Config) -> Vec<PathBuf> {
    if !config.state.join("ledger.db").is_file() {
        return Vec::new();
    }
    let mut all = config.outputs();
    all.push(config.state.clone());
    all.extend(config.written.finals.iter().map(|made| config.absolute(&made.path)));
    all.iter().flat_map(names).collect()
}

/// The file by the name given, and by its own where that is another.
fn names(path: &PathBuf) -> Vec<PathBuf> {
    let in_parent = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    let own = path.canonicalize().ok().or_else(in_parent);
    let is_plain = |path: &PathBuf| !path.components().any(|part| part == Component::ParentDir);
    let given = std::path::absolute(path).ok().filter(|given| own.is_none() || is_plain(given));
    let mut names: Vec<_> = given.into_iter().collect();
    names.extend(own.filter(|own| !names.contains(own)));
    names
}

fn may_replace(
    config: &Config,
    owned: &[PathBuf],
    key: &'static str,
    path: &PathBuf,
    way: &str,
) -> anyhow::Result<()> {
    if !is_owned(path, owned) {
        return Ok(());
    }
    Err(config.problem(&Problem::new(key, refusal(path, way))).into())
}

fn is_owned(path: &PathBuf, owned: &[PathBuf]) -> bool {
    names(path).iter().any(|name| owned.iter().any(|owned| name.starts_with(owned)))
}

/// Two results in one file would be one result.
fn check_distinct(config: &Config, output: Option<&PathBuf>) -> anyhow::Result<()> {
    let records = output.into_iter().chain(&config.rejects).cloned();
    let views = config.written.view.iter().map(|view| config.absolute(&view.path));
    let finals = config.written.finals.iter().map(|made| config.absolute(&made.path));
    let mut seen = std::collections::HashSet::new();
    for path in records.chain(views).chain(finals) {
        // A device may take everything.
        let is_file = path.metadata().map_or(true, |there| there.is_file());
        if is_file && !names(&path).into_iter().all(|name| seen.insert(name)) {
            anyhow::bail!("{} is to hold two results: name a file for each", path.display());
        }
    }
    Ok(())
}

/// Locks a file that a job may be writing to.
fn locks(path: &PathBuf, way: &str) -> anyhow::Result<Vec<File>> {
    let lock = |name: PathBuf| match durable::lock_if_there(&name) {
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Err(anyhow::anyhow!(
            "a running job writes to {}: stop it, or name another file: {way}",
            name.display()
        )),
        lock => Ok(lock?),
    };
    let locks = names(path).into_iter().map(lock).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(locks.into_iter().flatten().collect())
}
