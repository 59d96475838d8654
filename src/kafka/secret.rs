//! A password, and where it comes from.
//!
//! Invariants: neither `Debug` nor a printed job shows it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Shown where a password stands in a job.
const HIDDEN: &str = "(hidden)";

/// A password: itself, or where it is.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "a text, { env = \"NAME\" }, { file = \"path\" } or { credential = \"name\" }"
)]
pub enum Secret {
    /// It stands in the job.
    Text(String),
    /// It stands elsewhere.
    Elsewhere(Elsewhere),
}

/// Where a password stands, other than in the job.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Elsewhere {
    /// In this variable of the environment.
    Env(String),
    /// In this file, without the line end after it.
    File(PathBuf),
    /// In this credential of the systemd unit (`LoadCredential=`).
    Credential(String),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => formatter.write_str(HIDDEN),
            Self::Elsewhere(place) => place.fmt(formatter),
        }
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(_) => serializer.serialize_str(HIDDEN),
            Self::Elsewhere(place) => place.serialize(serializer),
        }
    }
}

impl Secret {
    /// The same with its path absolute.
    #[must_use]
    pub fn from(&self, base: &Path) -> Self {
        match self {
            Self::Elsewhere(Elsewhere::File(path)) => {
                Self::Elsewhere(Elsewhere::File(base.join(path)))
            }
            _ => self.clone(),
        }
    }

    /// The password.
    ///
    /// # Errors
    /// Says where it was looked for.
    pub fn read(&self) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Elsewhere(Elsewhere::Env(name)) => std::env::var(name)
                .map_err(|_| format!("the variable {name} is not set, or is not UTF-8")),
            Self::Elsewhere(Elsewhere::File(path)) => read(path),
            Self::Elsewhere(Elsewhere::Credential(name)) => {
                let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    format!(
                        "there are no credentials: add `LoadCredential={name}:PATH` to the unit \
                         (systemd.exec(5))"
                    )
                })?;
                read(&Path::new(&folder).join(OsStr::new(name)))
            }
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, Serialize)]
    struct Job {
        password: Secret,
    }

    fn job(text: &str) -> Result<Job, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn a_password_is_never_printed() {
        let written = job("password = \"open sesame\"").unwrap();
        let printed = format!("{written:?} {}", toml::to_string(&written).unwrap());
        assert!(!printed.contains("sesame"), "{printed}");
        assert_eq!(written.password.read().unwrap(), "open sesame");
        let elsewhere = job("password = { env = \"NO_SUCH_VARIABLE\" }").unwrap();
        assert!(toml::to_string(&elsewhere).unwrap().contains("NO_SUCH_VARIABLE"));
        assert!(elsewhere.password.read().unwrap_err().contains("NO_SUCH_VARIABLE"));
        assert!(job("password = { env = \"A\", file = \"b\" }").is_err());
        assert!(job("password = { vault = \"A\" }").is_err());
    }

    #[expect(clippy::disallowed_methods, reason = "the test is the administrator")]
    #[test]
    fn a_file_is_read_without_its_line_end() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("password"), "a b\r\n").unwrap();
        let secret = job("password = { file = \"password\" }").unwrap().password;
        assert_eq!(secret.from(folder.path()).read().unwrap(), "a b");
    }
}
