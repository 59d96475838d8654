//! Valid and invalid job files, and the errors for the latter.

use super::*;
use crate::transform::Transform;

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(text, Path::new("/etc/job.toml"), PathBuf::from("/etc"))
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn an_empty_file_is_all_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.rules.settle, std::time::Duration::from_secs(1));
    assert_eq!(config.written.transform, Transform::None {});
    assert_eq!(config.written.input.format, crate::decode::Format::Lines {});
}

#[test]
fn relative_paths_start_from_the_job_file() {
    let config = parse("[input]\ndirectory = '../srv/in'\n[output]\npath = 'out.txt'").unwrap();
    assert_eq!(config.directory, Some(PathBuf::from("/srv/in")));
    assert_eq!(config.output_path(), Some(Path::new("/etc/out.txt")));
    assert_eq!(config.rejects, Some(PathBuf::from("/etc/out.txt.rejects.jsonl")));
}

#[test]
fn what_is_understood_reads_back_the_same() {
    let config = parse(
        "[input]\ndirectory = 'in'\n[input.complete]\nmarker = '.ok'\n[input.format.numbers]\n\
         [transform.scale]\nbelow = 1.0\nby = 2.0\n[output]\npath = 'out'\n\
         [done]\naction = { move = 'archive' }",
    );
    let understood = config.unwrap().as_understood();
    assert_eq!(parse(&understood).unwrap().as_understood(), understood);
}

/// Every kind of mistake is told with its line, its key, what was found and what is allowed.
#[test]
fn errors_name_line_key_and_what_is_allowed() {
    for (text, parts) in [
        ("[input]\nsettel = '1s'", vec!["job.toml:2: input.settel", "`settel`", "`settle`"]),
        ("[inptu]\n", vec!["job.toml:1: inptu", "`inptu`", "`input`"]),
        ("[input]\nsettle = 3", vec![":2: input.settle", "found 3", "duration"]),
        ("[input]\nsettle = 'soon'", vec![":2: input.settle", "soon", "a duration such as"]),
        ("[input]\nmax_record = 'big'", vec![":2: input.max_record", "big", "a size such as"]),
        ("[input]\nmax_record = '0B'", vec![":2: input.max_record", "found 0", "1 or more"]),
        ("[input]\norder = 'size'", vec![":2: input.order", "`size`", "`natural`"]),
        ("[input]\npattern = 'a['", vec![":2: input.pattern", "\"a[\"", "unclosed"]),
        ("[input]\nend_marker = ''", vec![":2: input.end_marker", "\"\"", "one record"]),
        ("[input.complete]\nlines = 0", vec![":2: input.complete.lines", "found 0"]),
        ("[input.complete]\nmarker = 'a/b'", vec![":2: input.complete.marker", "a/b", "suffix"]),
        ("[input.complete]\ntrailer = '('", vec![":2: input.complete.trailer", "(", "regular"]),
        ("[input.format.csb]", vec![":1: input.format", "`csb`", "`numbers`"]),
        ("[transform.scale]\nbelow = 1", vec![":1: transform.scale", "`by`"]),
        ("[transform.command]\nargv = []", vec![":2: transform.command.argv", "a program"]),
        ("[transform.scale]\nbelow=1.0\nby=1.0", vec![":1: transform", "a column of numbers"]),
        ("[output.format.numbers]", vec![":1: output.format", "one column of type double"]),
        ("[rejects]\nmax_bad_ratio = 2.0", vec![":2: rejects.max_bad_ratio", "found 2", "0 to 1"]),
        ("[rejects]\non_bad_record = 'x'", vec![":2: rejects.on_bad_record", "`quarantine`"]),
        ("[done]\naction = 'keep'", vec![":2: done.action", "`keep`", "`delete`"]),
        ("[engine]\nworkers = 0", vec![":2: engine.workers", "found 0", "1 or more"]),
        ("[engine]\nmemory = '1MiB'", vec![":2: engine.memory", "32MiB"]),
        ("[output]\npath = 'a'\n[rejects]\npath = 'a'", vec![":4: rejects.path", "same file"]),
        ("[input]\nsettle = '1s'\nsettle = '2s'", vec![":3:", "`settle` is given twice"]),
        ("[input\n", vec![":1:"]),
    ] {
        let message = message(text);
        for part in parts {
            assert!(message.contains(part), "{text:?} gives {message:?} without {part:?}");
        }
    }
}

#[test]
fn a_misspelt_key_is_refused_in_every_table() {
    for table in [
        "input",
        "output",
        "rejects",
        "done",
        "state",
        "engine",
        "input.format.lines",
        "input.complete",
        "transform.scale",
        "transform.command",
        "transform.none",
    ] {
        let message = message(&format!("[{table}]\nmispelt = 1"));
        assert!(message.contains("mispelt"), "{table}: {message}");
    }
}

#[test]
fn what_is_written_must_stay_out_of_the_drop_folder() {
    for (table, key) in [("output", "path"), ("rejects", "path"), ("state", "directory")] {
        let message = message(&format!("[input]\ndirectory='in'\n[{table}]\n{key} = 'in/../in/x'"));
        assert!(message.contains(&format!(":4: {table}.{key}")), "{message}");
        assert!(message.contains("inside `input.directory`"), "{message}");
    }
    let message = message("[input]\ndirectory='in'\n[done]\naction = { move = 'in/old' }");
    assert!(message.contains(":4: done.action"), "{message}");
}

/// A user who asks for the status of a service finds the state that systemd gave to it.
#[test]
fn the_state_of_a_service_is_found_without_systemd() {
    let of = |path: &str, base: &str| without_service(Path::new(path), Path::new(base));
    assert_eq!(of("orders.toml", "/etc/spoolmill"), Path::new("/var/lib/spoolmill/orders"));
    assert_eq!(of("/srv/jobs/orders.toml", "/srv/jobs"), Path::new("/srv/jobs/orders.state"));
}
