{{/* The pod: one definition for the Deployment, the DaemonSet and the sidecar. */}}

{{- define "mcp-authz.container" -}}
{{- $v := .Values -}}
name: mcp-authz
image: {{ include "mcp-authz.image" . | quote }}
imagePullPolicy: {{ $v.image.pullPolicy }}
command: [/usr/local/bin/mcp-authz]
args: [serve, --config, /etc/mcp-authz/config.yaml]
env:
  - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
  - {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
  {{- if $v.telemetry.endpoint }}
  - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
  - name: OTEL_RESOURCE_ATTRIBUTES
    value: k8s.namespace.name=$(POD_NAMESPACE),k8s.pod.name=$(POD_NAME),k8s.pod.uid=$(POD_UID),k8s.node.name=$(NODE_NAME)
  {{- end }}
  {{- with $v.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  {{- if ne $v.grpc.transport "unix" }}
  - {name: {{ include "mcp-authz.grpcPortName" . }}, containerPort: {{ int $v.grpc.port }}}
  {{- end }}
  - {name: admin, containerPort: {{ int $v.admin.port }}}
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: {{ int $v.probes.periodSeconds }}
  failureThreshold: {{ int $v.probes.startupFailures }}
  timeoutSeconds: 2
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: {{ int $v.probes.periodSeconds }}
  failureThreshold: {{ int $v.probes.livenessFailures }}
  timeoutSeconds: 2
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: {{ int $v.probes.periodSeconds }}
  failureThreshold: {{ int $v.probes.readinessFailures }}
  timeoutSeconds: 2
{{- if ne $v.mode "sidecar" }}
# Envoys hear of the end of a pod some seconds late; until then it serves on.
lifecycle:
  preStop:
    sleep: {seconds: {{ int $v.stop.preStopSeconds }}}
{{- end }}
resources:
  {{- toYaml $v.resources | nindent 2 }}
securityContext:
  {{- toYaml $v.securityContext | nindent 2 }}
volumeMounts:
  # One file: a change of the settings starts new pods, so the old ones must not see it.
  - {name: config, mountPath: /etc/mcp-authz/config.yaml, subPath: config.yaml, readOnly: true}
  - {name: policies, mountPath: /etc/mcp-authz/policies, readOnly: true}
  - {name: servers, mountPath: /etc/mcp-authz/servers, readOnly: true}
  - {name: grants, mountPath: /etc/mcp-authz/grants, readOnly: true}
  {{- range $server, $from := $v.credentials }}
  - {name: credential-{{ $server | replace "." "-" | replace "_" "-" | lower }}, mountPath: /etc/mcp-authz/credentials/{{ $server }}, readOnly: true}
  {{- end }}
  {{- if eq $v.grpc.transport "mtls" }}
  - {name: tls, mountPath: /etc/mcp-authz/tls, readOnly: true}
  {{- end }}
  {{- if eq $v.grpc.transport "unix" }}
  - {name: socket, mountPath: /run/mcp-authz}
  {{- end }}
  {{- if or $v.admin.tokenSecret $v.audit.signingKeySecret }}
  - {name: keys, mountPath: /etc/mcp-authz/keys, readOnly: true}
  {{- end }}
  {{- if include "mcp-authz.redisSecrets" . }}
  - {name: redis, mountPath: /etc/mcp-authz/redis, readOnly: true}
  {{- end }}
  {{- if include "mcp-authz.telemetrySecrets" . }}
  - {name: telemetry, mountPath: /etc/mcp-authz/telemetry, readOnly: true}
  {{- end }}
  {{- if eq $v.quotas.engine "embedded" }}
  - {name: counters, mountPath: /var/lib/mcp-authz}
  {{- end }}
  {{- if ne $v.audit.volume.type "none" }}
  - {name: audit, mountPath: /var/log/mcp-authz}
  {{- end }}
  {{- with $v.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "mcp-authz.redisSecrets" -}}
{{- $r := .Values.quotas.redis -}}
{{- if and (eq .Values.quotas.engine "redis") (or $r.passwordSecret $r.caSecret $r.clientCertificateSecret) -}}true{{- end -}}
{{- end }}

{{- define "mcp-authz.telemetrySecrets" -}}
{{- $t := .Values.telemetry -}}
{{- if and $t.endpoint (or $t.headersSecret $t.caSecret) -}}true{{- end -}}
{{- end }}

{{- define "mcp-authz.volumes" -}}
{{- $v := .Values -}}
{{- $name := include "mcp-authz.fullname" . -}}
- name: config
  configMap: {name: {{ $name }}-config}
{{ include "mcp-authz.documentVolumes" . }}
- name: grants
  projected:
    # 0400. With `fsGroup` the kubelet adds that the group may read, and the group is that of the process.
    defaultMode: 256
    sources:
      {{- range $v.grants.existingSecrets }}
      - secret: {name: {{ . }}}
      {{- end }}
{{- range $server, $from := $v.credentials }}
- name: credential-{{ $server | replace "." "-" | replace "_" "-" | lower }}
  secret: {secretName: {{ $from.secret }}, defaultMode: 256}
{{- end }}
{{- if eq $v.grpc.transport "mtls" }}
- name: tls
  secret: {secretName: {{ include "mcp-authz.tlsSecret" . }}, defaultMode: 256}
{{- end }}
{{- if eq $v.grpc.transport "unix" }}
- name: socket
  {{- if eq $v.mode "daemonset" }}
  # Make it on each node for user 65532 before: volumes of the node keep their owner.
  hostPath: {path: {{ $v.daemonset.socketFolder | quote }}, type: Directory}
  {{- else }}
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
  {{- end }}
{{- end }}
{{- if or $v.admin.tokenSecret $v.audit.signingKeySecret }}
- name: keys
  projected:
    defaultMode: 256
    sources:
      {{- with $v.admin.tokenSecret }}
      - secret: {name: {{ . }}, items: [{key: {{ $v.admin.tokenKey }}, path: admin-token}]}
      {{- end }}
      {{- with $v.audit.signingKeySecret }}
      - secret: {name: {{ . }}, items: [{key: {{ $v.audit.signingKeyKey }}, path: audit.key}]}
      {{- end }}
{{- end }}
{{- if include "mcp-authz.redisSecrets" . }}
- name: redis
  projected:
    defaultMode: 256
    sources:
      {{- with $v.quotas.redis.passwordSecret }}
      - secret: {name: {{ . }}, items: [{key: {{ $v.quotas.redis.passwordKey }}, path: password}]}
      {{- end }}
      {{- with $v.quotas.redis.caSecret }}
      - secret: {name: {{ . }}, items: [{key: {{ $v.quotas.redis.caKey }}, path: ca.crt}]}
      {{- end }}
      {{- with $v.quotas.redis.clientCertificateSecret }}
      - secret: {name: {{ . }}, items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]}
      {{- end }}
{{- end }}
{{- if include "mcp-authz.telemetrySecrets" . }}
- name: telemetry
  projected:
    defaultMode: 256
    sources:
      {{- with $v.telemetry.headersSecret }}
      - secret: {name: {{ . }}, items: [{key: {{ $v.telemetry.headersKey }}, path: headers}]}
      {{- end }}
      {{- with $v.telemetry.caSecret }}
      - secret: {name: {{ . }}, items: [{key: {{ $v.telemetry.caKey }}, path: ca.crt}]}
      {{- end }}
{{- end }}
{{- if eq $v.quotas.engine "embedded" }}
- name: counters
  {{- if not (and $v.quotas.embedded.persistence (eq $v.mode "deployment")) }}
  emptyDir: {sizeLimit: {{ $v.quotas.embedded.size }}}
  {{- else }}
  persistentVolumeClaim: {claimName: {{ default (printf "%s-counters" $name) $v.quotas.embedded.existingClaim }}}
  {{- end }}
{{- end }}
{{- if eq $v.audit.volume.type "emptyDir" }}
- name: audit
  emptyDir: {sizeLimit: {{ $v.audit.volume.sizeLimit }}}
{{- else if eq $v.audit.volume.type "claim" }}
- name: audit
  persistentVolumeClaim: {claimName: {{ $v.audit.volume.existingClaim }}}
{{- end }}
{{- with $v.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "mcp-authz.documentVolumes" -}}
{{- $v := .Values -}}
{{- $name := include "mcp-authz.fullname" . -}}
- name: policies
  projected:
    sources:
      {{- if $v.policies.inline }}
      - configMap: {name: {{ $name }}-policies}
      {{- end }}
      {{- range $v.policies.existingConfigMaps }}
      - configMap: {name: {{ . }}}
      {{- end }}
- name: servers
  configMap: {name: {{ default (printf "%s-servers" $name) $v.servers.existingConfigMap }}}
{{- end }}

{{- define "mcp-authz.podTemplate" -}}
{{- $v := .Values -}}
metadata:
  labels:
    # Not the version of the chart: a new one that changes nothing here starts no new pods.
    {{- include "mcp-authz.selectorLabels" . | nindent 4 }}
    app.kubernetes.io/component: server
    {{- with merge (deepCopy $v.podLabels) $v.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Settings are read at the start, so new ones start new pods. Policies, servers, grants and secrets are read again while running.
    mcp-authz.io/settings-checksum: {{ include "mcp-authz.config" . | sha256sum }}
    {{- with merge (deepCopy $v.podAnnotations) $v.commonAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "mcp-authz.serviceAccountName" . }}
  automountServiceAccountToken: {{ eq (include "mcp-authz.mountsToken" .) "true" }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int $v.stop.gracePeriodSeconds }}
  securityContext:
    {{- toYaml $v.podSecurityContext | nindent 4 }}
  {{- with $v.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $v.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $v.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml $v.topologySpreadConstraints | nindent 4 }}
  {{- else if eq $v.mode "deployment" }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "mcp-authz.selectorLabels" $ | nindent 10 }}
          app.kubernetes.io/component: server
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  containers:
    - {{ include "mcp-authz.container" . | nindent 6 | trim }}
  volumes:
    {{- include "mcp-authz.volumes" . | nindent 4 }}
{{- end }}
