#!/usr/bin/env bash
# Fuzzes one target with libFuzzer, on stable Rust: run.sh TARGET [SECONDS] [LIBFUZZER-OPTION…]
# New inputs are kept in target/fuzz-corpus/TARGET; what breaks a property is written to target/fuzz-artifacts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

name=${1:?"usage: run.sh check|evaluate|headers|mask|parse|policy|response|settle [SECONDS] [LIBFUZZER-OPTION…]"}
seconds=${2:-60}
shift $(($# > 2 ? 2 : $#))
corpus=tests/fuzz/corpus/$name
[[ -d $corpus ]] || { echo "no target \`$name\`" >&2; exit 64; }

host=$(rustc -vV | sed -n 's/^host: //p')
target_dir=${CARGO_TARGET_DIR:-target}
# The flags that cargo-fuzz sets on nightly; all of them are stable. `--target` keeps them off build scripts.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
cargo build --quiet --profile fuzz --target "$host" -p mcp-authz-fuzz --features libfuzzer --bin "fuzz-$name"

found=$target_dir/fuzz-corpus/$name artifacts=$target_dir/fuzz-artifacts
mkdir -p "$found" "$artifacts"
exec "$target_dir/$host/fuzz/fuzz-$name" -max_total_time="$seconds" -max_len=8192 -timeout=5 -print_final_stats=1 \
  -artifact_prefix="$artifacts/$name-" "$@" "$found" "$corpus"
