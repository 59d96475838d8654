//! The rules of the source tree: who imports whom, which door leads to which dependency, and how
//! long a file or a function may be.

use std::collections::{BTreeMap, BTreeSet};
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

/// A row of the map in lib.rs: a module, and what it imports; `None` for any module above it.
fn map_of_modules() -> Vec<(String, Option<BTreeSet<String>>)> {
    let text = std::fs::read_to_string(Path::new(ROOT).join("src/lib.rs")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    let row = |row: &str| {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [module, _, imports] = cells[..] else {
            panic!("a row of the map has three cells: {row}")
        };
        let imports = imports.trim_end_matches(" |");
        let names = || imports.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let imports = match imports {
            "any above" => None,
            "nothing" => Some(BTreeSet::new()),
            _ => Some(names()),
        };
        (module.trim_end_matches("`]").to_owned(), imports)
    };
    rows.map(row).collect()
}

#[test]
fn the_map_of_modules_is_the_code() {
    let map = map_of_modules();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, text) in sources() {
        let module = module(&name).to_owned();
        if !["lib", "main"].contains(&module.as_str()) {
            // A comment may name any module.
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code = code.collect::<Vec<_>>().join("\n");
            let others = imports(&code).into_iter().filter(|import| *import != module);
            found.entry(module.clone()).or_default().extend(others);
        }
    }
    assert_eq!(found.len(), map.len(), "modules: {:?}", found.keys());
    let mut above = BTreeSet::new();
    for (module, imports) in map {
        let found = found.remove(&module).unwrap_or_else(|| panic!("there is no module {module}"));
        if let Some(imports) = imports {
            assert_eq!(found, imports, "{module} imports, and its row in lib.rs");
        }
        assert!(
            found.is_subset(&above),
            "{module} imports {found:?}, which has rows below its own"
        );
        above.insert(module);
    }
}

#[test]
fn each_dependency_has_one_door() {
    for (words, door) in [
        (vec!["rusqlite"], "ledger/"),
        (vec!["notify::"], "source/folder/watch.rs"),
        (vec!["toml::"], "config/"),
        (vec!["tokio::signal"], "cli/signals.rs"),
        (vec!["datafusion::", "tokio::runtime::Runtime"], "engine/"),
        (vec!["foldhash"], "engine/groups.rs"),
        (vec!["tracing_subscriber"], "telemetry"),
        (vec!["indicatif"], "cli/progress.rs"),
        (vec!["hyper::", "hyper_util", "http_body_util"], "http/"),
        (vec!["walkdir"], "source/"),
        (vec!["fsync(", "fdatasync(", "renameat", "unlinkat", "linkat("], "durable.rs"),
        (vec!["rdkafka::"], "kafka/client sink/kafka/deliver"),
        (vec!["unsafe {"], "source/folder/input.rs kafka/client/topic_id.rs"),
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
            let code = code.replace("sd_notify::", "").replace("pulse::notify", "");
            for word in &words {
                let is_door = door.split(' ').any(|door| name.starts_with(door));
                assert!(
                    !code.contains(word) || is_door || name.ends_with("tests.rs"),
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
        "rdkafka",
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

/// A doc comment says what an item is or does, in a sentence or a noun phrase; one that opens with "What" makes
/// the reader wait for it.
#[test]
fn no_doc_comment_opens_with_what() {
    for (name, text) in sources() {
        let mut before = "";
        for (number, line) in text.lines().map(str::trim_start).enumerate() {
            for (mark, opening) in [("///", "/// What "), ("//!", "//! What ")] {
                let goes_on = before.starts_with(mark) && before != mark;
                let opens = line.starts_with(opening) && !goes_on;
                assert!(!opens, "{name}:{}: {line}", number + 1);
            }
            before = line;
        }
    }
}

/// Words that no native engineer would use, or that have a term of the field: fewer from change to change.
#[test]
fn no_more_words_that_read_as_translated() {
    let words: [(&str, usize); 6] = [
        ("anew", 0),
        ("whoever", 3),
        ("by itself", 0),
        ("in place of", 0),
        ("so many", 1),
        ("behind", 65),
    ];
    for (word, most) in words {
        let is_word = |line: &str| {
            let line = line.to_lowercase();
            line.match_indices(word).any(|(at, _)| {
                let letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
                let (before, after) = (&line[..at], &line[at + word.len()..]);
                !letter(before.chars().next_back()) && !letter(after.chars().next())
            })
        };
        let found: usize = sources()
            .iter()
            .map(|(_, text)| text.lines().filter(|line| is_word(line)).count())
            .sum();
        assert!(found <= most, "{word}: {found} lines, {most} before");
    }
}

/// Lines that bind several names at once, or bind the name of the line before once more, pack two ideas into
/// one. These numbers only fall.
#[test]
fn no_more_packed_bindings() {
    /// `let (a, b) = (x, y)`.
    const TUPLES: usize = 7;
    /// `let x = ..` right after `let x = ..`.
    const AGAIN: usize = 13;
    let name = |line: &str| -> Option<String> {
        let rest = line.trim_start().strip_prefix("let ")?;
        let rest = rest.strip_prefix("mut ").unwrap_or(rest);
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        let is_name = rest[end..].starts_with(" = ") || rest[end..].starts_with(": ");
        is_name.then(|| rest[..end].to_owned())
    };
    let mut tuples = 0;
    let mut again = 0;
    for (_, text) in sources() {
        let mut before = None;
        for line in text.lines() {
            let line = line.trim_start();
            // With a pattern that may not match it is one question.
            let is_question = line.contains("Some(") || line.contains("Ok(") || line.contains("::");
            let is_tuple = line.starts_with("let (") && line.contains(") = (");
            tuples += usize::from(is_tuple && !is_question);
            let bound = name(line);
            again += usize::from(bound.is_some() && bound == before);
            before = bound;
        }
    }
    assert!(tuples <= TUPLES, "{tuples} bindings of tuples, {TUPLES} before");
    assert!(again <= AGAIN, "{again} names are bound again in the next line, {AGAIN} before");
}

/// What a build lacks is decided in few places. This number only falls.
#[test]
fn no_more_conditions_on_features() {
    const CONDITIONS: usize = 33;
    let is_one = |line: &&str| line.contains("feature = \"") && line.contains("cfg");
    let count: usize = sources().iter().map(|(_, text)| text.lines().filter(is_one).count()).sum();
    assert!(count <= CONDITIONS, "{count} conditions on features, {CONDITIONS} before");
}

/// In a log that is searched, a message stands alone: it is a clause with its subject.
#[test]
fn log_messages_have_a_subject() {
    let verbs =
        ["is", "are", "was", "were", "has", "had", "it", "its", "cannot", "may", "does", "holds"];
    let mut found = 0;
    for (name, text) in sources() {
        let calls =
            ["info!(", "warn!(", "error!(", "debug!("].map(|call| format!("tracing::{call}"));
        for rest in calls.iter().flat_map(|call| text.split(call.as_str()).skip(1)) {
            let call = rest.split(");").next().unwrap();
            let Some(message) = call.trim_end().strip_suffix('"') else { continue };
            let message = message.rsplit('"').next().unwrap();
            let first = message.split(' ').next().unwrap();
            found += 1;
            assert!(!verbs.contains(&first), "{name}: \"{message}\"");
        }
    }
    assert!(found > 60, "only {found} messages were found");
}

/// The paths that a `use` names: `a::{b, c::d}` is two.
fn expand(prefix: &[String], path: &str) -> Vec<Vec<String>> {
    let parts = |text: &str| -> Vec<String> {
        let words = text.split("::").map(str::trim);
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let Some(open) = path.find('{') else {
        let name = path.split(" as ").next().unwrap();
        return vec![[prefix, &parts(name)].concat()];
    };
    let head = [prefix, &parts(&path[..open])].concat();
    let body = &path[open + 1..path.rfind('}').unwrap()];
    let mut depth = 0;
    let split = |c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    };
    body.split(split)
        .filter(|part| !part.trim().is_empty())
        .flat_map(|part| expand(&head, part))
        .collect()
}

/// The files, by their paths as modules, each with those that it imports.
fn imports_of_files() -> BTreeMap<String, BTreeSet<String>> {
    let path =
        |name: &str| name.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
    let is_one = |name: &str| !["lib.rs", "main.rs"].contains(&name) && !name.ends_with("tests.rs");
    // The stand-in for the engine is another version of what is there.
    let files: BTreeMap<String, String> = sources()
        .into_iter()
        .filter(|(name, _)| is_one(name) && name != "engine/none.rs")
        .map(|(name, text)| (path(&name), text))
        .collect();
    let file_of = |path: &[String]| {
        let longest = (1..=path.len()).rev().map(|length| path[..length].join("::"));
        longest.into_iter().find(|path| files.contains_key(path))
    };
    let imports = |(module, text): (&String, &String)| {
        let own: Vec<String> = module.split("::").map(str::to_owned).collect();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = lines.collect::<Vec<_>>().join(" ");
        let mut found = BTreeSet::new();
        let uses = code.split(" use ").skip(1).filter_map(|rest| rest.split(';').next());
        let is_path = |rest: &&str| rest.starts_with("crate::") || rest.starts_with("super::");
        for path in uses.filter(is_path).flat_map(|path| expand(&[], path)) {
            let up = path.iter().take_while(|part| *part == "super").count();
            let rest = match path[0].as_str() {
                "crate" => path[1..].to_vec(),
                "super" => [&own[..own.len() - up], &path[up..]].concat(),
                _ => continue,
            };
            found.extend(file_of(&rest).filter(|other| other != module));
        }
        (module.clone(), found)
    };
    files.iter().map(imports).collect()
}

/// Two files that import each other, however far around, can only be read together.
#[test]
fn no_file_imports_what_imports_it() {
    let mut left = imports_of_files();
    assert!(left.len() > 200, "{} files", left.len());
    // Those that import nothing that is left are in no circle.
    loop {
        let free: Vec<String> =
            left.iter().filter(|(_, of)| of.is_empty()).map(|(name, _)| name.clone()).collect();
        if free.is_empty() {
            break;
        }
        left.retain(|name, _| !free.contains(name));
        left.values_mut().for_each(|of| of.retain(|name| !free.contains(name)));
    }
    assert!(left.is_empty(), "a circle of imports, or what leads to one: {left:#?}");
}
