#!/usr/bin/env bash
# What a reservation costs a Redis: microseconds of its CPU and bytes of its memory. Needs redis-server and its tools.
#
# CPU time and not the clock, so that it comes out alike on a machine that is busy with other things.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

calls=${1:-100000}
folder=$(mktemp -d)
socket=$folder/redis.sock
redis-server --port 0 --unixsocket "$socket" --dir "$folder" --save '' --appendonly no --maxmemory-policy noeviction \
  --daemonize yes --pidfile "$folder/pid" >/dev/null
trap 'redis-cli -s "$socket" shutdown nosave >/dev/null 2>&1; rm -rf "$folder"' EXIT
for _ in $(seq 200); do
  redis-cli -s "$socket" ping >/dev/null 2>&1 && break
  sleep 0.05
done

cli() { redis-cli -s "$socket" "$@"; }
sha=$(cat src/quota/redis/common.lua src/quota/redis/reserve.lua | cli -x script load)
info() { cli info "$1" | tr -d '\r' | awk -F: -v key="$2" '$1 == key {print $2}'; }
cpu() { cli info cpu | tr -d '\r' | awk -F: '$1 ~ /^used_cpu_(user|sys)$/ {sum += $2} END {printf "%.6f", sum}'; }

# $1 calls with $2 counters of the day each; $3 is the part of the name that tells counters apart.
reserve() {
  local keys=("pq1:{bench}:r:__rand_int__" "pq1:{bench}:epoch") lines=() n day
  day=$(($(date +%s) / 86400 * 86400000))
  for n in $(seq "$2"); do
    keys+=("pq1:{bench}:c:messages:day-utc:$3$n")
    lines+=(c c 1 4000000000 "$day" $((day + 86400000)) $((day + 172800000)) s)
  done
  redis-benchmark -s "$socket" -n "$1" -c 32 -r 2000000000 -q evalsha "$sha" "${#keys[@]}" "${keys[@]}" \
    r 120000 5000 __rand_int__ 0123456789abcdef 0123456789abcdef 1-x '' "${lines[@]}" >/dev/null
}

fresh() {
  cli flushall >/dev/null
  cli set 'pq1:{bench}:epoch' '1-x 0 0' >/dev/null
}

printf '| counters | CPU of Redis a call | calls/s for one core | bytes a call, for 2 min |\n|---|---|---|---|\n'
for counters in 1 4 8; do
  fresh
  reserve 2000 "$counters" AAAAAAAAAAAAAAAAAAAAA
  memory=$(info memory used_memory) before=$(cpu)
  reserve "$calls" "$counters" AAAAAAAAAAAAAAAAAAAAA
  awk -v counters="$counters" -v calls="$calls" -v cpu="$(cpu)" -v before="$before" -v memory="$memory" \
    -v now="$(info memory used_memory)" 'BEGIN {
      us = (cpu - before) * 1e6 / calls
      printf "| %d | %.0f µs | %d | %d |\n", counters, us, 1e6 / us, (now - memory) / calls
    }'
done
# The same calls once with one counter for all of them and once with one for each: the difference is what counters take.
fresh
before=$(info memory used_memory)
reserve "$calls" 1 AAAAAAAAAAAAAAAAAAAAA
shared=$(($(info memory used_memory) - before))
fresh
before=$(info memory used_memory)
reserve "$calls" 1 AAAAAAAAA__rand_int__
apart=$(($(info memory used_memory) - before))
printf '\nbytes of one counter of a calendar window: %d\n' $(((apart - shared) / calls))
