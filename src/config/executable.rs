//! Whether the kernel can start a program: what execve(2) looks at.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::Access;

/// Bytes of a program's first line that the kernel reads (`BINPRM_BUF_SIZE`).
const FIRST_LINE: u64 = 256;

/// Further kinds of programs are registered here (`binfmt_misc`), besides two files of its own.
const OTHERS: &str = "/proc/sys/fs/binfmt_misc";

/// Why the kernel cannot start the program, as far as its first bytes say.
pub fn why_not(program: &Path) -> Option<String> {
    let mut start = Vec::new();
    // One that may be run and not read says nothing.
    let file = File::open(program).ok()?;
    file.take(FIRST_LINE).read_to_end(&mut start).ok()?;
    if start.starts_with(b"\x7fELF") {
        return None;
    }
    let Some(line) = start.strip_prefix(b"#!") else {
        let others = std::fs::read_dir(OTHERS).map_or(0, Iterator::count);
        let why =
            "its first line does not say what runs it (such as `#!/bin/sh`), and it is no binary";
        return (others <= 2).then(|| why.to_owned());
    };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let word = line.trim_ascii_start().split(|byte| [b' ', b'\t'].contains(byte)).next();
    let interpreter = Path::new(std::ffi::OsStr::from_bytes(word.unwrap_or_default()));
    let can_run = interpreter.is_file() && rustix::fs::access(interpreter, Access::EXEC_OK).is_ok();
    let shown = interpreter.display().to_string().escape_debug().to_string();
    (!can_run).then(|| format!("its first line names \"{shown}\", which is no program"))
}
