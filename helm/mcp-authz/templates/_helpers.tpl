{{/* Names, labels and small decisions that several templates share. */}}

{{- define "mcp-authz.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- /* At most 50 characters, so that what is appended stays within 63. */ -}}
{{- define "mcp-authz.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "mcp-authz.name" .) .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name (include "mcp-authz.name" .) | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "mcp-authz.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mcp-authz.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mcp-authz.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: mcp-authz
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Metadata of an object: a list of the root, the end of its name, its component, and optionally labels and annotations of its own. */ -}}
{{- define "mcp-authz.metadata" -}}
{{- $root := index . 0 -}}
{{- $labels := dict -}}{{- if gt (len .) 3 }}{{ $labels = index . 3 }}{{ end -}}
{{- $annotations := dict -}}{{- if gt (len .) 4 }}{{ $annotations = index . 4 }}{{ end -}}
name: {{ include "mcp-authz.fullname" $root }}{{ index . 1 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "mcp-authz.labels" $root | nindent 2 }}
  {{- include "mcp-authz.selectorLabels" $root | nindent 2 }}
  app.kubernetes.io/component: {{ index . 2 }}
  {{- with $labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (deepCopy $annotations) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "mcp-authz.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}

{{- define "mcp-authz.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "mcp-authz.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{- /* `true` or nothing: whether pods get a token of the service account. */ -}}
{{- define "mcp-authz.mountsToken" -}}
{{- $asked := toString .Values.serviceAccount.automountToken -}}
{{- if or (eq $asked "true") (and (ne $asked "false") .Values.kubernetes.events) -}}true{{- end -}}
{{- end }}

{{- /* Whether some collector gets logs: by the settings, or by what OpenTelemetry reads from the environment. */ -}}
{{- define "mcp-authz.hasLogCollector" -}}
{{- $config := include "mcp-authz.config" . | fromYaml -}}
{{- $named := hasKey (default dict $config.telemetry) "otlp" -}}
{{- range .Values.extraEnv -}}
{{- if has .name (list "OTEL_EXPORTER_OTLP_ENDPOINT" "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT") }}{{ $named = true }}{{ end -}}
{{- end -}}
{{- if and $named (dig "telemetry" "logs" "enabled" true $config) }}true{{ end -}}
{{- end -}}

{{- /* Whether the audit goes to a file: its path, or nothing. */ -}}
{{- define "mcp-authz.auditFile" -}}
{{- if contains "/" (toString .Values.audit.sink) -}}{{ .Values.audit.sink }}{{- end -}}
{{- end }}

{{- define "mcp-authz.tlsSecret" -}}
{{- if .Values.grpc.tls.certManager.enabled -}}
{{ default (printf "%s-tls" (include "mcp-authz.fullname" .)) .Values.grpc.tls.existingSecret }}
{{- else -}}
{{ .Values.grpc.tls.existingSecret }}
{{- end -}}
{{- end }}

{{- /* Replicas that run at least. */ -}}
{{- define "mcp-authz.replicasMin" -}}
{{- if ne .Values.mode "deployment" -}}1
{{- else if .Values.autoscaling.enabled -}}{{ int .Values.autoscaling.minReplicas }}
{{- else -}}{{ int .Values.replicas }}
{{- end -}}
{{- end }}

{{- /* `true` or nothing: whether only what runs in the pod reaches the gRPC port. */ -}}
{{- define "mcp-authz.grpcOnLoopback" -}}
{{- if or (hasPrefix "127." .Values.grpc.host) (eq .Values.grpc.host "[::1]") -}}true{{- end -}}
{{- end }}

{{- /* Name of the gRPC port: meshes read from it whether they may look into it. */ -}}
{{- define "mcp-authz.grpcPortName" -}}
{{- if eq .Values.grpc.transport "mtls" -}}tls-grpc{{- else -}}grpc{{- end -}}
{{- end }}

{{- /* The port of a URL, or what is given as its default. */ -}}
{{- define "mcp-authz.portOf" -}}
{{- $host := (urlParse (index . 0)).host -}}
{{- $port := regexFind ":[0-9]+$" $host | trimPrefix ":" -}}
{{ default (toString (index . 1)) $port }}
{{- end }}
