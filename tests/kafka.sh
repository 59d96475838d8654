#!/usr/bin/env bash
# Runs the tests that need Kafka: fetches it with Maven, and lets them start it. Needs Java 17, Maven, kcat,
# openssl and setpriv.
# With --long, daemon and broker are killed 300 times, not 30.
set -euo pipefail
cd "$(dirname "$0")/.."

for program in java mvn kcat setpriv openssl; do
    command -v "$program" >/dev/null || { echo "$program is missing: the tests with Kafka need it" >&2; exit 1; }
done
if [ "${1:-}" = --long ]; then
    export SPOOLMILL_TEST_KILLS=300
fi
export SPOOLMILL_TEST_KAFKA="$PWD/target/kafka"
if [ ! -d "$SPOOLMILL_TEST_KAFKA" ]; then
    # All of it, or nothing.
    mvn -q -B -f tests/support/kafka/pom.xml dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$SPOOLMILL_TEST_KAFKA.new"
    mv "$SPOOLMILL_TEST_KAFKA.new" "$SPOOLMILL_TEST_KAFKA"
fi
cargo test --locked --features full --test integration -- --ignored --test-threads=2 kafka::
