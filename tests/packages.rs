//! What is packaged is there, and says what the program says.

use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The verbs that the program lists.
fn verbs() -> Vec<String> {
    let help = Command::new(env!("CARGO_BIN_EXE_spoolmill")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let verbs = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    verbs.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn manual_and_completions_know_every_verb() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_spoolmill"));
    assert!(command.arg("generate").arg(folder.path()).status().unwrap().success());
    let verbs = verbs();
    assert!(verbs.len() >= 10 && verbs.contains(&"requeue".to_owned()), "{verbs:?}");
    let of = |name: &str| read(&folder.path().join(name));
    let (bash, zsh, fish) = (of("spoolmill.bash"), of("_spoolmill"), of("spoolmill.fish"));
    for verb in verbs.iter().filter(|verb| *verb != "help") {
        let page = of(&format!("spoolmill-{verb}.1"));
        assert!(
            page.contains(".SH OPTIONS") && of("spoolmill.1").contains(verb.as_str()),
            "{verb}"
        );
        for completions in [&bash, &zsh, &fish] {
            assert!(completions.contains(verb.as_str()), "{verb}");
        }
    }
    assert!(of("spoolmill-requeue.1").contains("again"));
}

/// `man spoolmill.toml` shows every line of the file that shows every key, as it stands there.
#[test]
fn the_manual_of_the_job_file_has_every_key() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_spoolmill"));
    assert!(command.arg("generate").arg(folder.path()).status().unwrap().success());
    let page = read(&folder.path().join("spoolmill.toml.5"));
    let lines = page.split(".nf\n").nth(1).unwrap().split(".fi\n").next().unwrap();
    // What roff would take for its own is escaped.
    let shown = lines
        .lines()
        .map(|line| line.replace("\\-", "-").replace("\\*(Aq", "'").replace("\\\\", "\\"));
    let shown: Vec<String> = shown.map(|line| line.trim_start_matches("\\&").to_owned()).collect();
    let file = read(&Path::new(ROOT).join("config/spoolmill.toml"));
    assert_eq!(shown, file.lines().collect::<Vec<_>>());
}

/// The assets of the package exist, but for what is built; the unit finds the program where it is put.
#[test]
fn the_package_has_what_it_names() {
    let manifest: toml::Table = read(&Path::new(ROOT).join("Cargo.toml")).parse().unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let assets = deb["assets"].as_array().unwrap();
    let mut places = Vec::new();
    for asset in assets {
        let (source, place) = (asset[0].as_str().unwrap(), asset[1].as_str().unwrap());
        places.push((source, place));
        if source.starts_with("target/") {
            continue;
        }
        let (folder, pattern) = source.rsplit_once('/').unwrap_or(("", source));
        let ends = pattern.trim_start_matches('*');
        let found = std::fs::read_dir(Path::new(ROOT).join(folder)).unwrap().any(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if pattern.starts_with('*') { name.ends_with(ends) } else { name == pattern }
        });
        assert!(found, "{source}");
    }
    assert!(places.contains(&("target/release/spoolmill", "usr/bin/")));
    let unit = read(&Path::new(ROOT).join("systemd/spoolmill@.service"));
    assert!(unit.contains("ExecStart=/usr/bin/spoolmill run"));
    let scripts = Path::new(ROOT).join(deb["maintainer-scripts"].as_str().unwrap());
    for script in ["postinst", "prerm", "postrm"] {
        let text = read(&scripts.join(script));
        assert!(
            text.starts_with("#!/bin/sh\nset -e\n") && text.contains("#DEBHELPER#"),
            "{script}"
        );
    }
}
