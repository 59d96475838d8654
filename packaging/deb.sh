#!/usr/bin/env bash
# Builds the Debian package: the program with everything, the unit, examples, manual and completions.
# Needs cargo-deb (`cargo install --locked cargo-deb`). FEATURES= builds it without SQL, in minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
features=${FEATURES-full}
cargo build --release --locked --features "$features"
# Cargo may be configured to build elsewhere; the package is made from here.
built=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
if [ "$built" != "$PWD/target" ]; then
    mkdir -p target/release
    cp "$built/release/spoolmill" target/release/
fi
# What is there from before is not to be taken for this one.
rm -rf target/generated target/debian/spoolmill_*.deb
target/release/spoolmill generate target/generated
cargo deb --no-build --no-strip --output "${1:-target/debian/}"
