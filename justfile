# What a developer runs; `just check` is what CI runs.

# fmt, clippy, docs, tests, the quickstart twice
check:
    bash .ci/run

fmt:
    cargo fmt

lint:
    cargo clippy --all-targets -- -D warnings

test:
    cargo test

docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

quickstart:
    cargo run --release -- run pipelines/quickstart.toml

# the JSON Schema that editors use
schema:
    cargo run --release -- schema > docs/pipeline.schema.json
