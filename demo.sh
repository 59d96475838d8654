#!/bin/sh
# Builds spoolmill and runs the quick start: a pipe is cut into drop files, the daemon takes them
# until it meets the end marker, and what became of each file is shown.
set -eu
cd "$(dirname "$0")"

cargo build --release --locked
spoolmill=target/release/spoolmill
rm -rf demo
mkdir -p demo/in

echo
echo '== The input: 19 numbers, one of them none, and the end marker, cut into drop files of two lines'
{ seq 1 9; echo oops; seq 10 10 90; echo EOF; } | split -l 2 - demo/in/input_
ls -l demo/in

echo
echo '== The job: config/quickstart.toml, checked'
"$spoolmill" check -c config/quickstart.toml >/dev/null && echo valid

echo
echo '== The daemon: one line for each file that it has committed'
"$spoolmill" run -c config/quickstart.toml

echo
echo '== The folder afterwards: every file renamed, after its records were safe'
ls -l demo/in

echo
echo '== The output: numbers below ten multiplied by a hundred'
cat demo/output.txt

echo
echo '== The rejects: with file and line'
cat demo/rejects.jsonl

echo
echo '== The same job over the same files as a batch, and as a stream: the same bytes'
cat demo/in/processed-input_* | "$spoolmill" stream -c config/quickstart.toml 2>/dev/null | cmp - demo/output.txt
cat demo/in/processed-input_* | "$spoolmill" batch -c config/quickstart.toml - | cmp - demo/output.txt
echo same
