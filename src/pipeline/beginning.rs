//! What the output begins with: the columns of all that is in it.
//!
//! What holds here: records are not appended to an output that begins with other columns, whoever
//! wrote it and whenever.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;
use std::sync::OnceLock;

/// The beginning of one output.
#[derive(Debug)]
pub struct Beginning {
    path: PathBuf,
    known: OnceLock<Vec<u8>>,
}

impl Beginning {
    /// Of the output at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path, known: OnceLock::new() }
    }

    /// Whether an output that shall begin with `header` does, or can.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn agree(&self, header: &[u8]) -> Result<(), String> {
        if let Some(known) = self.known.get() {
            return if known == header { Ok(()) } else { Err(self.differs(known, header)) };
        }
        let found = self.found(header.len())?;
        // One that is shorter is still to be written.
        if header.starts_with(&found) { Ok(()) } else { Err(self.differs(&found, header)) }
    }

    /// From now on it begins with `header`: records that go with it are ready to be committed.
    ///
    /// # Errors
    /// When others were first.
    pub fn decide(&self, header: &[u8]) -> Result<(), String> {
        let known = self.known.get_or_init(|| header.to_vec());
        if known == header { Ok(()) } else { Err(self.differs(known, header)) }
    }

    /// As many bytes as the header has, as far as they are there.
    fn found(&self, length: usize) -> Result<Vec<u8>, String> {
        let mut found = Vec::new();
        if length == 0 {
            return Ok(found);
        }
        let read = File::open(&self.path)
            .and_then(|file| file.take(length as u64).read_to_end(&mut found));
        match read {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(format!("{}: {error}", self.path.display()))
            }
            _ => Ok(found),
        }
    }

    fn differs(&self, found: &[u8], header: &[u8]) -> String {
        let line = |bytes: &[u8]| {
            let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
            crate::telemetry::escaped(line)
        };
        format!(
            "{} begins with \"{}\", and these records have the columns \"{}\": move it away to begin \
             a new one",
            self.path.display(),
            line(found),
            line(header)
        )
    }
}
