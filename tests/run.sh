#!/usr/bin/env bash
# Every check of the project. Installs what it needs, by name, into ./.tools; needs Rust, Go 1.26+, Python 3.10+, Node 20+, redis-server 7+ and make.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$*"; }

step "tools"
tests/tools/install.sh all deny

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --quiet -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

step "dependencies"
.tools/bin/cargo-deny --config .cargo/deny.toml check --hide-inclusion-graph bans licenses sources

step "tests"
# The fixture server is a program that the end-to-end tests start.
cargo build --quiet -p mcp-authz-fixture
cargo test --workspace --no-fail-fast

step "policies"
cargo run --quiet -- test policies

step "demo"
make --no-print-directory demo

step "demo of two replicas and one Redis"
make --no-print-directory demo REDIS=1
