#!/usr/bin/env python3
"""Public files that nobody here wrote, through the real program, against other readers.

    tests/corpora.py PROGRAM FOLDER

FOLDER holds clones of repositories with files that were made to be hard, such as

    https://github.com/max-mapper/csv-spectrum      https://github.com/nst/JSONTestSuite
    https://github.com/apache/parquet-testing       https://github.com/apache/arrow-testing
    https://github.com/duckdb/duckdb (data/)

and PROGRAM is a build with `--features sql`. Each CSV file that Python's `csv` reads must give the
records that it gives, each JSON file those lines that are one object to Python's `json`, and each
Parquet file the number of records that DuckDB counts (`DUCKDB` names its program). Whatever the file,
the program ends by itself with exit code 0, 1 or 2. Prints what differs; exit code 1 if anything does.
"""
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

PROGRAM, FOLDER = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
DUCKDB = os.environ.get("DUCKDB", "duckdb")
OUTPUT = '[output]\npath = "unused"\n[output.format.{}]\n[rejects]\npath = "rejects"\n'
seen = Counter()
differences = []


def differs(path, what):
    differences.append(f"{path}: {what}")


def batch(path, job):
    """Runs the job over one file; True when it went well."""
    Path("job.toml").write_text(job)
    command = [PROGRAM, "batch", "-c", "job.toml", "-o", "result", path]
    run = subprocess.run(command, capture_output=True, timeout=120)
    if run.returncode not in (0, 1, 2):
        differs(path, f"exit code {run.returncode}: {run.stderr[-300:]}")
    return run.returncode == 0


def check_csv(path):
    infer = subprocess.run([PROGRAM, "check", "--infer", path], capture_output=True, timeout=120)
    if infer.returncode == 0:
        # Whatever is inferred is a job.
        job = infer.stdout.decode() + OUTPUT.format("json")
        Path("job.toml").write_text(job)
        run = subprocess.run([PROGRAM, "batch", "-c", "job.toml", "-o", "result", path], capture_output=True)
        if run.returncode not in (0, 1):
            differs(path, f"the inferred columns are no job: {run.stderr[:300]}")
    elif infer.returncode != 1:
        differs(path, f"--infer: {infer.stderr[:300]}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except (UnicodeDecodeError, csv.Error):
        rows = []
    # A carriage return alone is no line end here.
    if not rows or "\0" in text or "\r" in text.replace("\r\n", ""):
        seen["csv without an oracle"] += 1
        return
    [(width, _)] = Counter(map(len, rows)).most_common(1)
    columns = "".join(f'c{number} = "varchar"\n' for number in range(width))
    job = "[input.format.csv]\nheader = false\n[input.format.csv.columns]\n" + columns
    if not batch(path, job + OUTPUT.format("json")):
        differs(path, "failed")
        return
    lines = Path("result").read_text().splitlines()
    ours = [[value or "" for value in json.loads(line).values()] for line in lines]
    theirs = [row for row in rows if len(row) == width]
    # A line of nothing is no record, one of nothing in quotes is.
    if [row for row in ours if row != [""]] != [row for row in theirs if row != [""]]:
        differs(path, f"{len(ours)} records, {len(theirs)} by Python")
    seen["csv as by Python"] += 1


def check_json(path):
    def unique(pairs):
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def refuse(word):
        raise ValueError(word)

    def is_object(line):
        try:
            text = line.decode()
            # A surrogate alone is no character.
            json.dumps(json.loads(text), ensure_ascii=False).encode()
            return isinstance(json.loads(text, object_pairs_hook=unique, parse_constant=refuse), dict)
        except (ValueError, RecursionError):
            return False

    job = '[input.format.json]\n[input.format.json.columns]\na = "varchar"\nb = "varchar"\n'
    if not batch(path, job + OUTPUT.format("json")):
        differs(path, "failed")
        return
    ours = len(Path("result").read_bytes().splitlines())
    theirs = sum(map(is_object, path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")))
    if ours != theirs:
        differs(path, f"{ours} records, {theirs} by Python")
    seen["json as by Python"] += 1


def check_parquet(path):
    count = "select count(*) from read_parquet('{}')"
    ask = lambda file: subprocess.run([DUCKDB, "-csv", "-noheader", "-c", count.format(file)], capture_output=True)
    if shutil.which(DUCKDB) is None:
        seen["parquet without DuckDB to count"] += 1
        return
    if not batch(path, "[input.format.parquet]\n" + OUTPUT.format("parquet")):
        seen["parquet refused"] += 1
        return
    ours, theirs = ask("result"), ask(path)
    if theirs.returncode == 0 and ours.stdout != theirs.stdout:
        differs(path, f"{ours.stdout} records, {theirs.stdout} by DuckDB")
    seen["parquet as by DuckDB"] += 1


folder = FOLDER.resolve()
with tempfile.TemporaryDirectory() as place:
    os.chdir(place)
    for path in sorted(folder.rglob("*")):
        name = path.name.lower()
        if not path.is_file() or path.is_symlink() or ".git" in path.parts:
            continue
        if name.endswith(".csv"):
            check_csv(path)
        elif name.endswith((".json", ".ndjson", ".jsonl")):
            check_json(path)
        elif name.endswith(".parquet"):
            check_parquet(path)
for what, number in sorted(seen.items()):
    print(f"{number:6} {what}")
print(*differences, sep="\n")
sys.exit(bool(differences))
