#!/usr/bin/env bash
# Shows mcp-authz at work on this machine: `make demo`, or `make demo STAY=1` to leave it running.
# `make demo REDIS=1` shows two of them that share one quota in Redis, and one of them killed.
# Needs Rust, Python 3.9 and Node.js 20 or newer. Everything else goes into ./.tools, everything it writes into ./.demo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() {
  printf 'demo: %s\n' "$*" >&2
  exit 69
}

story=demo.mjs
case ${1:-} in
  '' | --stay) ;;
  --redis)
    story=replicas.mjs
    command -v redis-server >/dev/null || fail 'redis-server is missing. Install Redis 7 or newer: https://redis.io/docs/latest/get-started/'
    ;;
  *)
    echo 'usage: tests/demo/run.sh [--stay | --redis]' >&2
    exit 64
    ;;
esac
command -v cargo >/dev/null || fail 'cargo is missing. Install Rust: https://rustup.rs'
command -v npm >/dev/null || fail 'npm is missing. Install Node.js 20 or newer: https://nodejs.org'
node -e 'process.exit(Number.parseInt(process.versions.node) < 20 ? 1 : 0)' ||
  fail "Node.js 20 or newer is needed; this is $(node --version)"

tests/tools/install.sh envoy client-ts1
# Not a release build: that takes several times as long, and here nobody measures.
echo 'demo: building mcp-authz and an MCP server to protect (minutes at first, seconds later)'
cargo build --quiet --bin mcp-authz --bin mcp-authz-fixture --package mcp-authz --package mcp-authz-fixture
binaries=$(cargo metadata --format-version 1 --no-deps |
  node -p 'JSON.parse(require("fs").readFileSync(0, "utf8")).target_directory')/debug

exec node "tests/demo/$story" --binaries "$binaries" "$@"
