{{/* config.yaml: what the values say, and `extraConfig` over it. */}}

{{- define "mcp-authz.config" -}}
{{- $v := .Values -}}
{{- $grpc := printf "tcp://%s:%d" (default $v.admin.host $v.grpc.host) (int $v.grpc.port) -}}
{{- if eq $v.grpc.transport "unix" }}{{ $grpc = "unix:///run/mcp-authz/authz.sock" }}{{ end -}}
{{- $config := dict
  "listen" (dict "grpc" (list $grpc) "admin" (printf "%s:%d" $v.admin.host (int $v.admin.port)))
  "paths" (dict "policies" "policies" "servers" "servers/servers.yaml" "grants" "grants" "credentials" "credentials")
  "timeouts" (dict "check_ms" (int $v.envoy.checkMs) "drain_ms" (int $v.stop.drainMs))
  "envoy" (dict "response_phase" $v.envoy.responsePhase)
  "audit" (include "mcp-authz.config.audit" . | fromYaml)
  "log" (dict "level" $v.log.level "format" $v.log.format)
-}}
{{- if and (eq $v.grpc.transport "mesh") (ne (include "mcp-authz.grpcOnLoopback" .) "true") }}{{ $_ := set $config "danger_plaintext_tcp" true }}{{ end -}}
{{- if eq $v.grpc.transport "mtls" -}}
{{- $_ := set $config "tls" (dict "certificate" "tls/tls.crt" "key" "tls/tls.key" "client_ca" "tls/ca.crt" "allowed_sans" $v.grpc.tls.allowedSans) -}}
{{- end -}}
{{- if $v.admin.tokenSecret }}{{ $_ := set $config "admin" (dict "token_file" "keys/admin-token") }}{{ end -}}
{{- if eq $v.quotas.engine "redis" -}}
{{- $_ := set $config "ledger" (dict "redis" (include "mcp-authz.config.redis" . | fromYaml)) -}}
{{- else -}}
{{- $_ := set $config "ledger" (dict "embedded" (dict "folder" "/var/lib/mcp-authz")) -}}
{{- end -}}
{{- if $v.telemetry.endpoint -}}
{{- $otlp := dict "endpoint" $v.telemetry.endpoint "protocol" $v.telemetry.protocol -}}
{{- if $v.telemetry.headersSecret }}{{ $_ := set $otlp "headers_file" "telemetry/headers" }}{{ end -}}
{{- if $v.telemetry.caSecret }}{{ $_ := set $otlp "tls" (dict "ca" "telemetry/ca.crt") }}{{ end -}}
{{- $_ := set $config "telemetry" (dict "otlp" $otlp "traces" (dict "ratio" $v.telemetry.tracesRatio)) -}}
{{- end -}}
{{- if $v.kubernetes.events }}{{ $_ := set $config "kubernetes" (dict "events" true) }}{{ end -}}
{{- toYaml (mergeOverwrite $config (deepCopy $v.extraConfig)) -}}
{{- end }}

{{- define "mcp-authz.config.audit" -}}
{{- $a := .Values.audit -}}
sink: {{ $a.sink | quote }}
args: {{ $a.args | quote }}
outcomes: {{ $a.outcomes }}
fail_closed: {{ $a.failClosed }}
{{- if $a.dangerFullArgs }}
danger_full_args: true
{{- end }}
{{- if include "mcp-authz.auditFile" . }}
file: {bytes_max: {{ int64 $a.file.bytesMax }}, files_max: {{ int64 $a.file.filesMax }}}
{{- end }}
{{- if $a.signingKeySecret }}
signing_key: keys/audit.key
checkpoint_records: {{ int64 $a.checkpointRecords }}
checkpoint_ms: {{ int64 $a.checkpointMs }}
{{- end }}
{{- if eq $a.sink "redis" }}
redis: {entries_max: {{ int64 $a.redis.entriesMax }}}
{{- end }}
{{- end }}

{{- define "mcp-authz.config.redis" -}}
{{- $r := .Values.quotas.redis -}}
{{- with $r.url }}
url: {{ . | quote }}
{{- end }}
{{- with $r.sentinel }}
sentinel: {{ toJson . }}
{{- end }}
{{- with $r.cluster }}
cluster: {{ toJson . }}
{{- end }}
domain: {{ $r.domain | quote }}
durability: {{ $r.durability | quote }}
{{- with $r.username }}
username: {{ . | quote }}
{{- end }}
{{- if $r.passwordSecret }}
password_file: redis/password
{{- end }}
{{- if $r.caSecret }}
tls:
  ca: redis/ca.crt
  {{- if $r.clientCertificateSecret }}
  certificate: redis/tls.crt
  key: redis/tls.key
  {{- end }}
{{- end }}
{{- end }}
