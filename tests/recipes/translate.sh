#!/usr/bin/env bash
# Writes down what Istio and Envoy Gateway themselves make of the recipes in deploy/, as configuration of Envoy. The tests run that;
# so they need neither tool. Run it after a change to a recipe, and after an upgrade of a tool. With --check it only compares.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
readonly bin=$PWD/.tools/bin

for tool in egctl istio-translate; do
  [ -x "$bin/$tool" ] || { printf 'translate.sh: run tests/tools/install.sh %s\n' "$tool" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Envoy Gateway wants to see certificates; which ones does not matter, they do not become part of what is written.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=mcp.example.com \
  -addext "subjectAltName=DNS:mcp.example.com" -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
certificate=$(base64 <"$work/cert.pem" | tr -d '\n')
key=$(base64 <"$work/key.pem" | tr -d '\n')
{
  for file in deploy/envoy-gateway/*.yaml tests/recipes/envoy-gateway-cluster.yaml; do
    cat "$file"
    printf -- '---\n'
  done
  for name in mcp-gateway-client mcp-example-com; do
    printf 'apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: mcp}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}\n---\n' \
      "$name" "$certificate" "$key"
  done
  printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mcp-authz-ca, namespace: mcp-system}\ndata:\n  ca.crt: |\n'
  sed 's/^/    /' "$work/cert.pem"
} >"$work/envoy-gateway.yaml"

"$bin/egctl" x translate --from gateway-api --to gateway-api --output yaml --file "$work/envoy-gateway.yaml" >"$work/status.yaml"
if grep -B4 -A2 'status: "False"' "$work/status.yaml"; then
  printf 'translate.sh: Envoy Gateway does not accept the recipe\n' >&2
  exit 1
fi
"$bin/egctl" x translate --from gateway-api --to xds --type all --output json --file "$work/envoy-gateway.yaml" >"$work/raw.json"
"$bin/istio-translate" -o "$work/istio-raw.json" -namespace mcp -label app=mcp-server -ip 10.1.0.1 \
  deploy/istio/*.yaml tests/recipes/istio-cluster.yaml >"$work/istio.log" 2>&1 || { cat "$work/istio.log" >&2; exit 1; }

# One form for both: sorted and indented, so that a change can be read.
pretty() { python3 -c 'import json, sys; json.dump(json.load(open(sys.argv[1])), open(sys.argv[2], "w"), indent=1, sort_keys=True)' "$1" "$2"; }
pretty "$work/raw.json" "$work/envoy-gateway.json"
pretty "$work/istio-raw.json" "$work/istio.json"
sha256sum deploy/envoy-gateway/*.yaml deploy/istio/*.yaml tests/recipes/*.yaml tests/tools/istio-translate/go.mod \
  tests/tools/istio-translate/main.go >"$work/inputs.sha256"
printf '%s  egctl\n' "$(sed -n 's/^readonly EGCTL=//p' tests/tools/install.sh)" >>"$work/inputs.sha256"

for file in envoy-gateway.json istio.json inputs.sha256; do
  if [ "${1:-}" = --check ]; then
    diff -u "tests/recipes/$file" "$work/$file"
  else
    cp "$work/$file" "tests/recipes/$file"
  fi
done
