# The commands of everyday work. Needs https://just.systems; every recipe is a command that also works by itself.

# List the recipes
default:
    @just --list --unsorted

# Start everything, send real traces, show what arrived, stop
demo *args:
    cargo demo {{ args }}

# Start Postgres, Redis, ClickHouse and both services on this machine, and leave them running
up:
    cargo stack up

# Stop what `up` started and remove its data
down:
    cargo stack down

# Format the code
fmt:
    cargo fmt --all

# Run the linter as CI does: warnings are errors
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Run every test; starts the servers it needs. Arguments go to cargo
test *args:
    cargo test {{ args }}

# Everything a change must pass
ci:
    .ci/run

# Build the API documentation; broken links are errors
doc:
    RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps

# Check licences, sources and bans of all dependencies, and known vulnerabilities (`cargo install cargo-deny`)
deny *checks:
    cargo deny check {{ checks }}

# Measure what a span costs, from request body to ClickHouse block
bench-encode *args:
    cargo run --release -p load --bin bench-encode -- {{ args }}

# What a span costs each process, how long it takes, what stays on disk; compared with the last run. --help has more
[positional-arguments]
bench *args:
    cargo run --release -p load --bin bench -- "$@"

# What it costs ClickHouse to have an insert on disk before it answers
bench-durable *args:
    cargo run --quiet -p load --bin bench-durable -- {{ args }}

# What it costs to know who a request is from and whether it may pass
bench-tenant *args:
    cargo run --release -p load --bin bench-tenant -- {{ args }}

# How many instructions a span costs, step by step, beside the baseline; --save writes it anew (docs/testing/instructions.md)
instructions *args:
    cargo run --quiet --profile counted -p instructions -- {{ args }}

# Run the fuzz targets, each for so many seconds (`cargo install cargo-fuzz --locked`); a table in the end
fuzz target="all" seconds="600":
    tests/fuzz/run {{ target }} {{ seconds }}

# Break processes, stores and the network under load; a table of what was acknowledged, stored, doubled and lost. --list names them
faults *args:
    cargo run --quiet -p faults -- {{ args }}

# Write down anew what SDKs call those who serve models (schema/provider-names.csv), from the packages themselves
provider-names:
    cargo run --quiet -p tests --bin provider-names

# Name every Rust file of more than 500 lines: each is one that nobody reads whole
length:
    #!/usr/bin/env bash
    set -euo pipefail
    long=$(git ls-files -z --cached --others --exclude-standard '*.rs' \
        | xargs -0 wc -l | awk '$2 != "total" && $1 > 500')
    if [ -n "$long" ]; then
        echo "$long"
        exit 1
    fi

# What it costs to balance the ledger of 100 000 orgs over 24 hours (docs/operations/ledger.md)
ledger-cost:
    cargo test --release -p tests --test it ledger_scale::the_cost -- --ignored --nocapture
