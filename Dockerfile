# A small image with the program alone. Build arguments: FEATURES=full adds SQL (half an hour of build).
#   docker build -t spoolmill .
#   docker run -v /etc/spoolmill:/etc/spoolmill:ro -v /srv/spoolmill:/srv/spoolmill \
#       -v spoolmill-state:/var/lib/spoolmill spoolmill run -c /etc/spoolmill/orders.toml
FROM rust:1.95-bookworm AS build
ARG FEATURES=""
WORKDIR /source
COPY . .
RUN cargo build --release --locked --features "$FEATURES"

FROM debian:bookworm-slim
RUN useradd --system --no-create-home --uid 971 spoolmill \
    && install -d -o spoolmill -g spoolmill -m 0750 /var/lib/spoolmill
COPY --from=build /source/target/release/spoolmill /usr/bin/spoolmill
# A job in /etc/spoolmill keeps its state in /var/lib/spoolmill/NAME, each in its own folder.
USER spoolmill
ENTRYPOINT ["/usr/bin/spoolmill"]
CMD ["--help"]
