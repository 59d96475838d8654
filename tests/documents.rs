//! What is written for people is held against the code.

use std::collections::BTreeSet;
use std::path::Path;

use spoolmill::config::Config;
use spoolmill::config::file::File;

use crate::support::Spool;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// The dotted keys of a table, tables themselves included.
fn keys(table: &toml::Table, prefix: &str, into: &mut BTreeSet<String>) {
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        if let toml::Value::Table(table) = value {
            keys(table, &format!("{key}."), into);
        }
        into.insert(key);
    }
}

/// As shipped, the file that shows every key is the defaults.
#[test]
fn the_commented_configuration_shows_the_defaults() {
    let text = read("config/spoolmill.toml");
    let shown: File = toml::from_str(&text).unwrap();
    let shown = toml::Table::try_from(&shown).unwrap();
    let defaults = toml::Table::try_from(File::default()).unwrap();
    assert_eq!(shown, defaults);
    // Each default is written out, not merely implied.
    let (mut written, mut wanted) = (BTreeSet::new(), BTreeSet::new());
    keys(&text.parse().unwrap(), "", &mut written);
    keys(&defaults, "", &mut wanted);
    assert_eq!(wanted.difference(&written).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// With every comment that shows a key taken for what it shows, nothing is missing and nothing is
/// unknown.
#[test]
fn the_commented_configuration_shows_every_key() {
    let text = read("config/spoolmill.toml");
    for key in [
        "directory",
        "end_marker",
        "lines",
        "marker",
        "trailer",
        "below",
        "by",
        "argv",
        "timeout",
        "idle_timeout",
        "attempts",
        "path",
        "max_bad_records",
        "max_bad_ratio",
        "workers",
        "header",
        "delimiter",
        "unknown",
        "query",
        "name",
        "[[table]]",
        "[[view]]",
        "[event_time]",
        "column",
        "delay",
        "max_future",
        "late",
        "idle_close",
        "mode",
        "every",
        "allow_unbounded_state",
        "[[final]]",
        "[output.kafka]",
        "topic",
        "create",
        "key",
        "timestamp",
        "partition",
        "headers",
        "transaction",
        "positions",
        "compression",
        "[kafka]",
        "brokers",
        "[kafka.tls]",
        "ca",
        "cert",
        "[kafka.sasl]",
        "mechanism",
        "user",
        "password",
        "[kafka.options]",
    ] {
        if key.starts_with('[') {
            assert!(text.contains(key), "{key} is not shown");
            continue;
        }
        let shown = text.lines().any(|line| {
            let line = line.trim_start_matches(['#', ' ']);
            line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
        });
        assert!(shown, "{key} is not shown");
    }
    let optional = "[input]\ndirectory='/a'\nend_marker='E'\n[input.complete]\nlines=2\n[output]\npath='o'\n\
        [rejects]\npath='r'\nmax_bad_records=1\nmax_bad_ratio=0.1\n[state]\ndirectory='s'\n[engine]\nworkers=1\n\
        [transform.command]\nargv=['cat']\ntimeout='1s'\nidle_timeout='1s'\nattempts=1";
    Config::parse(optional, Path::new("job.toml"), "/".into()).unwrap();
}

#[test]
fn the_examples_are_jobs() {
    let mut names = vec!["quickstart", "command", "markers", "duckdb", "spoolmill"];
    if cfg!(feature = "sql") {
        names.extend(["sql", "windows", "quickstart-views"]);
    }
    if cfg!(feature = "kafka") {
        names.push("kafka");
    }
    for name in names {
        let path = Path::new(ROOT).join(format!("config/{name}.toml"));
        Config::read(&path).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn the_configuration_in_the_documents_is_a_job() {
    for document in ["README.md", "docs/configuration.md"] {
        let text = read(document);
        let blocks: Vec<&str> =
            text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert!(!blocks.is_empty());
        for block in blocks {
            Config::parse(block, Path::new(document), "/".into())
                .unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// Each promise of the crate documentation names a test that exists.
#[test]
fn every_promise_names_its_test() {
    let docs = read("src/lib.rs");
    let promises = docs.split("# The promises").nth(1).unwrap().split("# Words").next().unwrap();
    let mut named = 0;
    for promise in promises.split("**").skip(1).step_by(2) {
        assert!(!promise.is_empty());
    }
    for name in promises.split('`').filter(|word| word.contains("::")) {
        assert_exists(name);
        named += 1;
    }
    assert!(named >= 13);
}

#[track_caller]
fn assert_exists(name: &str) {
    let (module, test) = name.split_once("::").unwrap();
    let file = Path::new(ROOT).join(format!("tests/{module}.rs"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|_| panic!("no tests/{module}.rs"));
    assert!(text.contains(&format!("fn {test}(")), "{name} does not exist");
}

/// The page that argues why nothing is lost names tests that exist, and the line that it points to is there.
#[test]
fn the_page_about_crashes_is_held_against_the_code() {
    let page = read("docs/crash-safety.md");
    let names = page.split('`').filter(|word| word.contains("::") && !word.contains(' '));
    let named: Vec<_> = names.inspect(|name| assert_exists(name)).collect();
    assert!(named.len() >= 8, "{named:?}");
    assert_eq!(read("src/ledger/mod.rs").matches("// The commit point.\n").count(), 1);
    let mutants = read("tests/crashes.rs").matches("\"no-").count();
    assert!(mutants >= 9, "{mutants}");
}

/// The two commands of the README are the ones that the gate runs and the demo needs.
#[test]
fn the_commands_of_the_readme_exist() {
    let (readme, gate) = (read("README.md"), read(".ci/run"));
    assert!(readme.contains("cargo test") && gate.contains("cargo test"));
    assert!(readme.contains("demo/run.sh") || readme.contains("./demo.sh"));
}

/// The demo does what it says, to the end, as a new user sees it.
#[test]
fn the_demo_runs_to_its_end() {
    let kinds = if cfg!(feature = "sql") { &[None, Some("views")][..] } else { &[None] };
    for kind in kinds {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("config")).unwrap();
        for file in ["demo.sh", "config/quickstart.toml", "config/quickstart-views.toml"] {
            std::fs::copy(Path::new(ROOT).join(file), folder.path().join(file)).unwrap();
        }
        let mut command = std::process::Command::new("sh");
        command.current_dir(folder.path()).arg("demo.sh").args(kind.iter());
        let output = command.env("SPOOLMILL", env!("CARGO_BIN_EXE_spoolmill")).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && shown.ends_with("\nsame\n"), "{shown}\n{said}");
        assert!(!said.contains("spoolmill: "), "{said}");
    }
}

/// Cargo takes one filter of its own; more of them have to stand behind `--`.
#[test]
fn the_test_commands_of_the_readme_can_be_typed() {
    let readme = read("README.md");
    let commands: Vec<&str> =
        readme.split('`').filter(|word| word.starts_with("cargo test ")).collect();
    assert!(!commands.is_empty());
    for command in commands {
        let own: Vec<&str> = command.split(" -- ").next().unwrap().split_whitespace().collect();
        assert!(own.len() <= 3, "{command}");
    }
    for test in ["crashes", "kills"] {
        assert!(std::path::Path::new(ROOT).join(format!("tests/{test}.rs")).is_file());
    }
}

/// The blocks of a document that are commands, each with what it is to print.
fn shell_blocks(text: &str) -> Vec<(String, String, Option<String>)> {
    let mut found: Vec<(String, String, Option<String>)> = Vec::new();
    let mut follows = false;
    for part in text.split("\n```").skip(1).step_by(2).map(|part| part.split_once('\n')) {
        let (kind, body) = part.unwrap();
        let body = format!("{body}\n");
        if kind == "text" && follows {
            found.last_mut().unwrap().2 = Some(body);
        } else if kind.split(' ').next() == Some("sh") {
            found.push((kind.to_owned(), body, None));
        }
        follows = kind.split(' ').next() == Some("sh");
    }
    found
}

/// The commands of one document, one after the other, in a home folder of their own.
fn run_blocks(path: &str) -> usize {
    run_blocks_of(path, |kind| ["sh", "sh sql"].contains(&kind), |body| body.to_owned())
}

/// The same for blocks of some kinds, each as `changed` makes it.
pub fn run_blocks_of(
    path: &str,
    is_wanted: impl Fn(&str) -> bool,
    changed: impl Fn(&str) -> String,
) -> usize {
    let home = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_spoolmill")).parent().unwrap();
    let search = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut ran = 0;
    let mut folder = home.path().to_owned();
    for (kind, body, expected) in shell_blocks(&read(path)) {
        let body = changed(&body);
        if !is_wanted(&kind) || kind == "sh sql" && cfg!(not(feature = "sql")) {
            eprintln!("{path}: left out a block of `{kind}`");
            continue;
        }
        // The next block goes on in the folder to which this one has changed.
        let script = format!("set -eu\n{body}pwd > ~/.folder\n");
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .current_dir(&folder)
            .env("HOME", home.path())
            .env("PATH", &search)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{path}: {body}{printed}{told}");
        if let Some(expected) = expected {
            assert_eq!(printed, expected, "{path}: {body}{told}");
        }
        let now = std::fs::read_to_string(home.path().join(".folder")).unwrap();
        folder = now.trim_end().into();
        ran += 1;
    }
    ran
}

/// What a document tells to type works, and prints what it says. Blocks of `sh install` need what a test has
/// not: a toolchain, root, a service manager. `.ci/run` and `tests/systemd.sh` go through them. Blocks of `sh server`
/// are run by the tests that have one.
#[test]
fn every_command_in_the_documents_works() {
    let mut ran = run_blocks("README.md");
    for entry in std::fs::read_dir(Path::new(ROOT).join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        ran += run_blocks(&format!("docs/{name}"));
    }
    assert!(ran >= 10, "only {ran} blocks were found");
}

/// Files that the documents name are there, but for those that somebody is to add.
#[test]
fn every_file_that_a_document_names_is_there() {
    let mut named = 0;
    for entry in std::fs::read_dir(Path::new(ROOT).join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let text = read(&format!("docs/{name}"));
        let words = text.split('`').filter(|word| {
            let is_ours =
                ["src/", "tests/", "config/"].iter().any(|folder| word.starts_with(folder));
            is_ours && !word.contains(char::is_whitespace) && !word.ends_with("/x.rs")
        });
        for word in words {
            named += 1;
            assert!(Path::new(ROOT).join(word).exists(), "docs/{name} names {word}");
        }
        assert_links(&format!("docs/{name}"));
    }
    assert_links("README.md");
    assert!(named > 20, "only {named} files were found");
}

/// What a document links in the tree is there.
#[track_caller]
fn assert_links(document: &str) {
    let folder = Path::new(ROOT).join(document).parent().unwrap().to_owned();
    let text = read(document);
    for link in text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap()) {
        let is_ours = !link.starts_with("http") && !link.is_empty();
        assert!(!is_ours || folder.join(link).exists(), "{document} links {link}");
    }
}

/// The README links the line at which a microbatch becomes true.
#[test]
fn the_readme_links_the_commit_point() {
    let readme = read("README.md");
    let (_, link) = readme.split_once("(src/ledger/mod.rs#L").unwrap();
    let number: usize = link.split(')').next().unwrap().parse().unwrap();
    let text = read("src/ledger/mod.rs");
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[number - 1].contains("// The commit point"),
        "line {number}: {}",
        lines[number - 1]
    );
    assert!(lines[number].contains("commit()"), "{}", lines[number]);
}

/// The reference in the documents is the file itself: copy it there after a change.
#[test]
fn the_documents_show_every_key() {
    let file = read("config/spoolmill.toml");
    let page = read("docs/configuration.md");
    let shown = page.split("## Every key").nth(1).unwrap();
    let shown = shown.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(
        shown.trim_end() == file.trim_end(),
        "docs/configuration.md is not config/spoolmill.toml"
    );
}

/// Each example in the table of types is taken, or is a reject, as the table says.
#[test]
fn the_table_of_types_is_true() {
    let page = read("docs/configuration.md");
    let rows = page.lines().skip_while(|line| !line.starts_with("| type |")).skip(2);
    let quoted = |cell: &str| -> Vec<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let mut types = 0;
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').collect();
        for kind in quoted(cells[1]) {
            types += 1;
            for (text, is_taken) in quoted(cells[3])
                .iter()
                .map(|text| (text, true))
                .chain(quoted(cells[4]).iter().map(|text| (text, false)))
            {
                let spool = Spool::new(&format!(
                    "[input.format.csv]\n[input.format.csv.columns]\nvalue = \"{kind}\"\n\
                     [output]\npath = \"output.csv\"\n[output.format.csv]\n"
                ));
                spool.drop_file("a.csv", format!("value\n\"{text}\"\n"));
                spool.run_once();
                assert_eq!(
                    spool.rejects().is_empty(),
                    is_taken,
                    "`{text}` as {kind}: {}",
                    spool.rejects()
                );
                assert_eq!(
                    spool.read("output.csv").lines().count() == 2,
                    is_taken,
                    "`{text}` as {kind}"
                );
            }
        }
    }
    assert_eq!(types, 11);
}
