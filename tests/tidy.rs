//! The rules of the source tree: who imports whom, which door leads to which dependency, and how
//! long a file or a function may be.

use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn sources() -> Vec<(String, String)> {
    let mut all = Vec::new();
    collect(&Path::new(ROOT).join("src"), &mut all);
    all.into_iter()
        .map(|path| {
            let name = path.strip_prefix(Path::new(ROOT).join("src")).unwrap();
            (name.to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap())
        })
        .collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The module of a file: the first part of its path.
fn module(name: &str) -> &str {
    name.split(['/', '.']).next().unwrap()
}

/// The modules of ours that a source imports.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in text.split("crate::").skip(1) {
        if let Some(list) = rest.strip_prefix('{') {
            let list = list.split("};").next().unwrap();
            let mut depth = 0;
            for part in list.split_inclusive([',', '{', '}']) {
                let word = part.trim().trim_end_matches([',', '{', '}']);
                if depth == 0 && !word.is_empty() {
                    found.push(word.split("::").next().unwrap().to_owned());
                }
                depth += part.matches('{').count() as i32 - part.matches('}').count() as i32;
            }
        } else {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            found.push(rest[..end].to_owned());
        }
    }
    found
}

#[test]
fn modules_import_only_what_they_build_on() {
    let table: &[(&str, &[&str])] = &[
        ("units", &[]),
        ("telemetry", &[]),
        ("durable", &[]),
        ("record", &[]),
        ("failure", &["durable", "record"]),
        ("source", &["durable", "failure", "record", "telemetry"]),
        ("decode", &["record"]),
        ("transform", &["failure", "record", "telemetry", "units"]),
        ("sink", &["durable", "record"]),
        ("ledger", &["durable", "failure", "record"]),
        ("publish", &["durable", "failure", "ledger", "units"]),
        ("aggregate", &["units"]),
        ("engine", &["aggregate", "record"]),
        (
            "pipeline",
            &[
                "aggregate",
                "decode",
                "durable",
                "engine",
                "failure",
                "ledger",
                "publish",
                "record",
                "sink",
                "source",
                "telemetry",
                "transform",
                "units",
            ],
        ),
        (
            "config",
            &["aggregate", "decode", "durable", "publish", "sink", "source", "transform", "units"],
        ),
        (
            "queries",
            &[
                "aggregate",
                "config",
                "decode",
                "durable",
                "engine",
                "failure",
                "ledger",
                "pipeline",
                "publish",
                "record",
                "sink",
                "telemetry",
                "transform",
            ],
        ),
        (
            "status",
            &[
                "config",
                "decode",
                "durable",
                "ledger",
                "pipeline",
                "publish",
                "record",
                "source",
                "telemetry",
            ],
        ),
        ("http", &["config", "durable", "ledger", "status", "telemetry"]),
        (
            "daemon",
            &[
                "status",
                "config",
                "decode",
                "durable",
                "failure",
                "ledger",
                "pipeline",
                "publish",
                "queries",
                "sink",
                "source",
                "telemetry",
                "transform",
            ],
        ),
        (
            "cli",
            &[
                "aggregate",
                "config",
                "daemon",
                "decode",
                "durable",
                "engine",
                "failure",
                "http",
                "ledger",
                "pipeline",
                "queries",
                "record",
                "sink",
                "source",
                "status",
                "telemetry",
                "transform",
                "units",
            ],
        ),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for (name, text) in sources() {
        let module = module(&name);
        if ["lib", "main"].contains(&module) {
            continue;
        }
        seen.insert(module.to_owned());
        let (_, allowed) = table
            .iter()
            .find(|(known, _)| *known == module)
            .unwrap_or_else(|| panic!("{module} is not in the table"));
        for import in imports(&text) {
            assert!(
                import == module || allowed.contains(&import.as_str()),
                "{name} imports {import}"
            );
        }
    }
    assert_eq!(seen.len(), table.len(), "{seen:?}");
    let map = std::fs::read_to_string(Path::new(ROOT).join("src/lib.rs")).unwrap();
    for (module, _) in table {
        assert!(map.contains(&format!("| [`{module}`] |")), "{module} is not in the map of lib.rs");
        assert!(map.contains(&format!("pub mod {module};")), "{module} is not declared");
    }
}

#[test]
fn each_dependency_has_one_door() {
    for (words, door) in [
        (vec!["rusqlite"], "ledger/"),
        (vec!["notify::"], "source/watch.rs"),
        (vec!["toml::"], "config/"),
        (vec!["tokio::signal"], "cli/signals.rs"),
        (vec!["datafusion::", "tokio::runtime::Runtime"], "engine/"),
        (vec!["foldhash"], "engine/groups.rs"),
        (vec!["tracing_subscriber"], "telemetry"),
        (vec!["indicatif"], "cli/progress.rs"),
        (vec!["hyper::", "hyper_util", "http_body_util"], "http/"),
        (vec!["walkdir"], "source/"),
        (vec!["fsync(", "fdatasync(", "renameat", "unlinkat", "linkat("], "durable.rs"),
        (vec!["unsafe {"], "source/input.rs"),
    ] {
        for (name, text) in sources() {
            let code: String = text
                .split("#[cfg(test)]")
                .next()
                .unwrap()
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            let code = code.replace("sd_notify::", "").replace("telemetry::notify", "");
            for word in &words {
                assert!(
                    !code.contains(word) || name.starts_with(door) || name.ends_with("tests.rs"),
                    "{name} uses {word}, whose door is {door}"
                );
            }
        }
    }
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    for (name, text) in sources() {
        assert!(text.starts_with("//!"), "{name}");
        assert!(text.ends_with('\n') && !text.contains('\t'), "{name}");
        for (number, line) in text.lines().enumerate() {
            assert!(line.trim_end() == line, "{name}:{} ends in a space", number + 1);
            assert!(!line.contains("TODO") && !line.contains("FIXME"), "{name}:{}", number + 1);
        }
    }
}

#[test]
fn files_and_functions_stay_short() {
    for (name, text) in sources() {
        let length = text.lines().count();
        assert!(length <= 500, "{name} has {length} lines");
        let mut begun: Option<(usize, usize, &str)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let trimmed = line.trim_start();
            let is_function = trimmed.starts_with("fn ")
                || trimmed.contains(" fn ") && trimmed.starts_with("pub")
                || trimmed.starts_with("async fn ");
            if begun.is_none() && is_function && !trimmed.ends_with(';') {
                begun = Some((number, indent, line));
            }
            if let Some((from, depth, first)) = begun
                && indent == depth
                && (trimmed == "}" || trimmed.ends_with(';') && number == from)
            {
                assert!(number - from < 70, "{name}: {first} has {} lines", number - from + 1);
                begun = None;
            }
        }
    }
}

/// A dependency for each line of the design, and no other.
#[test]
fn no_dependency_comes_unseen() {
    let manifest: toml::Table =
        std::fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap().parse().unwrap();
    let known = [
        "anyhow",
        "arrow-array",
        "arrow-cast",
        "arrow-schema",
        "arrow-select",
        "base64",
        "bytes",
        "blake3",
        "bytesize",
        "clap",
        "clap_complete",
        "clap_mangen",
        "chrono",
        "crc32fast",
        "datafusion",
        "datafusion-functions-aggregate-common",
        "fast-float2",
        "flate2",
        "foldhash",
        "futures",
        "globset",
        "http-body-util",
        "humantime",
        "hyper",
        "hyper-util",
        "indicatif",
        "itoa",
        "libc",
        "memchr",
        "notify",
        "parquet",
        "regex",
        "rusqlite",
        "rustix",
        "sd-notify",
        "serde",
        "serde_json",
        "thiserror",
        "tokio",
        "toml",
        "tracing",
        "tracing-subscriber",
        "walkdir",
        "zmij",
        "zstd",
    ];
    for name in manifest["dependencies"].as_table().unwrap().keys() {
        assert!(known.contains(&name.as_str()), "{name} is not agreed on");
        let crate_name = name.replace('-', "_");
        let used = sources().iter().any(|(_, text)| text.contains(&crate_name));
        assert!(used, "{name} is not used");
    }
}
