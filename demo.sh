#!/bin/sh
# Builds spoolmill and runs the quick start: a pipe is cut into drop files, the daemon takes them
# until it meets the end marker, and what became of each file is shown.
#
# `./demo.sh views` builds it with SQL, which takes long, and shows a continuous view after each file.
set -eu
cd "$(dirname "$0")"

job=config/quickstart.toml
no_views=
if [ "${1:-}" = views ]; then
    job=config/quickstart-views.toml
    no_views=--no-views
fi
# SPOOLMILL names a program that is there already.
if [ -z "${SPOOLMILL:-}" ]; then
    cargo build --release --locked ${no_views:+--features sql}
    # Cargo may be configured to build elsewhere.
    target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    SPOOLMILL=$target/release/spoolmill
fi
spoolmill=$SPOOLMILL
rm -rf demo
mkdir -p demo/in

echo
echo '== The input: 19 numbers, one of them none, and the end marker, cut into drop files of two lines'
{ seq 1 9; echo oops; seq 10 10 90; echo EOF; } | split -l 2 - demo/in/input_
ls -l demo/in

echo
echo '== The job: '"$job"', checked'
"$spoolmill" check -c "$job" >/dev/null && echo valid

if [ "${1:-}" = views ]; then
    echo
    echo '== One file after the other: the unique numbers so far, after each'
    mkdir demo/later
    mv demo/in/input_* demo/later
    for file in demo/later/*; do
        mv "$file" demo/in
        "$spoolmill" run --once -c "$job" 2>/dev/null
        tr '\n' ' ' < demo/unique.txt
        echo
    done
else
    echo
    echo '== The daemon: one line for each file that it has committed'
    "$spoolmill" run -c "$job"
fi

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
cat demo/in/processed-input_* | "$spoolmill" stream -c "$job" 2>/dev/null | cmp - demo/output.txt
cat demo/in/processed-input_* | "$spoolmill" batch -c "$job" - --rejects /dev/null $no_views | cmp - demo/output.txt
echo same
