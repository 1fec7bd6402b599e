{{- define "kascade-serve.modelFolder" -}}
{{- if eq .Values.model.source "bundled" -}}
/usr/share/kascade/models/demo
{{- else -}}
{{- printf "/models/%s" (trimAll "/" .Values.model.path) | trimSuffix "/" -}}
{{- end -}}
{{- end -}}

{{/* The server's configuration file. What the chart sets itself comes first. */}}
{{- define "kascade-serve.configuration" -}}
model={{ include "kascade-serve.modelFolder" . | toRawJson }}
listen={{ printf "%s:50051" .Values.server.listenAddress | toRawJson }}
metrics-listen={{ printf "%s:9464" .Values.server.listenAddress | toRawJson }}
drain-delay-seconds={{ int .Values.server.drainDelaySeconds }}
drain-seconds={{ int .Values.server.drainSeconds }}
{{- if .Values.schedules.persistent }}
schedule-dir="/var/lib/kascade/schedules"
{{- end }}
{{- if .Values.schedules.initial.configMap }}
schedule={{ printf "/etc/kascade/schedule/%s" .Values.schedules.initial.key | toRawJson }}
{{- end }}
{{- if .Values.weightsCache.enabled }}
weights-cache="/var/cache/kascade"
{{- end }}
{{- if .Values.tls.secretName }}
tls-cert="/etc/kascade/tls/tls.crt"
tls-key="/etc/kascade/tls/tls.key"
{{- with .Values.tls.clientCa.secretName }}
tls-client-ca={{ printf "/etc/kascade/client-ca/%s" $.Values.tls.clientCa.key | toRawJson }}
{{- end }}
{{- else }}
allow-plaintext=true
{{- end }}
{{- if .Values.tokens.secretName }}
tokens={{ printf "/etc/kascade/tokens/%s" .Values.tokens.key | toRawJson }}
{{- end }}
{{- range $name, $value := .Values.server.options }}
{{ $name }}={{ $value | toRawJson }}
{{- end }}
{{ end -}}

{{/* The spec of a claim: its argument has accessModes, storageClassName and size. */}}
{{- define "kascade-serve.claimSpec" -}}
accessModes: {{- toYaml .accessModes | nindent 2 }}
{{- with .storageClassName }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .size }}
{{- end -}}

{{- define "kascade-serve.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if .Values.gpu.count -}}
{{- $limits := dict .Values.gpu.resource (int .Values.gpu.count) -}}
{{- $resources = mergeOverwrite $resources (dict "limits" $limits) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* One check of the server: a list of the root, the gRPC health service and the HTTP path. The kubelet's
     gRPC checks know no TLS, so that with TLS the same is asked over the metrics port. */}}
{{- define "kascade-serve.check" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.tls.secretName -}}
httpGet:
  port: metrics
  path: {{ index . 2 }}
{{- else -}}
grpc:
  port: 50051
  service: {{ index . 1 | quote }}
{{- end }}
timeoutSeconds: {{ $root.Values.probes.timeoutSeconds }}
{{- end -}}

{{- define "kascade-serve.probes" -}}
startupProbe:
  {{- include "kascade-serve.check" (list . "" "/readyz") | nindent 2 }}
  periodSeconds: {{ .Values.probes.startup.periodSeconds }}
  failureThreshold: {{ .Values.probes.startup.failureThreshold }}
readinessProbe:
  {{- include "kascade-serve.check" (list . "" "/readyz") | nindent 2 }}
  periodSeconds: {{ .Values.probes.readiness.periodSeconds }}
  failureThreshold: {{ .Values.probes.readiness.failureThreshold }}
livenessProbe:
  {{- include "kascade-serve.check" (list . "liveness" "/livez") | nindent 2 }}
  periodSeconds: {{ .Values.probes.liveness.periodSeconds }}
  failureThreshold: {{ .Values.probes.liveness.failureThreshold }}
{{- end -}}

{{- define "kascade-serve.serverMounts" -}}
- name: configuration
  mountPath: /etc/kascade/server.toml
  subPath: server.toml
  readOnly: true
{{- if ne .Values.model.source "bundled" }}
- name: model
  mountPath: /models
  readOnly: true
{{- end }}
{{- if .Values.schedules.persistent }}
- name: schedules
  mountPath: /var/lib/kascade/schedules
{{- end }}
{{- if .Values.schedules.initial.configMap }}
- name: initial-schedule
  mountPath: /etc/kascade/schedule
  readOnly: true
{{- end }}
{{- if .Values.weightsCache.enabled }}
- name: weights-cache
  mountPath: /var/cache/kascade
{{- end }}
{{- if .Values.tls.secretName }}
- name: tls
  mountPath: /etc/kascade/tls
  readOnly: true
{{- end }}
{{- if .Values.tls.clientCa.secretName }}
- name: client-ca
  mountPath: /etc/kascade/client-ca
  readOnly: true
{{- end }}
{{- if .Values.tokens.secretName }}
- name: tokens
  mountPath: /etc/kascade/tokens
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kascade-serve.modelVolume" -}}
{{- if eq .Values.model.source "existingClaim" -}}
- name: model
  persistentVolumeClaim:
    claimName: {{ .Values.model.claimName }}
    readOnly: true
{{- else if eq .Values.model.source "newClaim" -}}
- name: model
  persistentVolumeClaim:
    claimName: {{ include "kascade-serve.fullname" . }}-model
{{- else if eq .Values.model.source "emptyDir" -}}
- name: model
  emptyDir:
    sizeLimit: {{ .Values.model.size }}
{{- end -}}
{{- end -}}

{{- define "kascade-serve.serverVolumes" -}}
- name: configuration
  configMap:
    name: {{ include "kascade-serve.fullname" . }}
{{- if ne .Values.model.source "bundled" }}
{{ include "kascade-serve.modelVolume" . }}
{{- end }}
{{- if include "kascade-serve.fetches" . }}
- name: fetch-tmp
  emptyDir: {}
{{- end }}
{{- if and .Values.schedules.persistent (or .Values.schedules.claimName (eq .Values.workload.kind "Deployment")) }}
- name: schedules
  persistentVolumeClaim:
    claimName: {{ .Values.schedules.claimName | default (printf "%s-schedules" (include "kascade-serve.fullname" .)) }}
{{- end }}
{{- with .Values.schedules.initial.configMap }}
- name: initial-schedule
  configMap:
    name: {{ . }}
{{- end }}
{{- if .Values.weightsCache.enabled }}
- name: weights-cache
  emptyDir:
    sizeLimit: {{ .Values.weightsCache.sizeLimit }}
{{- end }}
{{- range $volume, $secret := dict "tls" .Values.tls.secretName "client-ca" .Values.tls.clientCa.secretName "tokens" .Values.tokens.secretName }}
{{- if $secret }}
- name: {{ $volume }}
  secret:
    secretName: {{ $secret }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kascade-serve.fetches" -}}
{{- if has .Values.model.source (list "newClaim" "emptyDir") -}}true{{- end -}}
{{- end -}}

{{- define "kascade-serve.fetchContainer" -}}
- name: fetch-model
  image: {{ .Values.model.fetch.image }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- with .Values.model.fetch.command }}
  command: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.model.fetch.args }}
  args: {{- toYaml . | nindent 4 }}
  {{- end }}
  env:
    - name: MODEL_VOLUME
      value: /models
    - name: HOME
      value: /tmp
    {{- with .Values.model.fetch.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.model.fetch.resources }}
  resources: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- toYaml .Values.containerSecurityContext | nindent 4 }}
  volumeMounts:
    - name: model
      mountPath: /models
    - name: fetch-tmp
      mountPath: /tmp
{{- end -}}

{{- define "kascade-serve.serverContainer" -}}
- name: server
  image: {{ include "kascade-serve.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [--config, /etc/kascade/server.toml]
  {{- with .Values.extraEnv }}
  env: {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - name: grpc
      containerPort: 50051
    - name: metrics
      containerPort: 9464
  {{- include "kascade-serve.probes" . | nindent 2 }}
  {{- if .Values.shutdown.preStopSeconds }}
  lifecycle:
    preStop:
      sleep:
        seconds: {{ .Values.shutdown.preStopSeconds }}
  {{- end }}
  resources: {{- include "kascade-serve.resources" . | nindent 4 }}
  securityContext: {{- toYaml .Values.containerSecurityContext | nindent 4 }}
  volumeMounts: {{- include "kascade-serve.serverMounts" . | nindent 4 }}
{{- end -}}

{{/* What all pods of the chart have. */}}
{{- define "kascade-serve.podBasics" -}}
serviceAccountName: {{ include "kascade-serve.serviceAccountName" . }}
automountServiceAccountToken: false
# Variables that Kubernetes would make of service names could be taken for options of our programs.
enableServiceLinks: false
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "kascade-serve.placement" -}}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints:
{{- $selector := dict "matchLabels" (include "kascade-serve.selectorLabels" (list $ "server") | fromYaml) }}
{{- range . }}
  - {{- toYaml (merge (deepCopy .) (dict "labelSelector" $selector)) | nindent 4 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The pod template of the Deployment or StatefulSet. */}}
{{- define "kascade-serve.serverPod" -}}
metadata:
  annotations:
    checksum/configuration: {{ include "kascade-serve.configuration" . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "kascade-serve.labels" (list . "server") | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "kascade-serve.podBasics" . | nindent 2 }}
  {{- include "kascade-serve.placement" . | trim | nindent 2 }}
  terminationGracePeriodSeconds: {{ add (int .Values.shutdown.preStopSeconds) (int .Values.server.drainDelaySeconds) (int .Values.server.drainSeconds) (int .Values.shutdown.marginSeconds) }}
  {{- if include "kascade-serve.fetches" . }}
  initContainers: {{- include "kascade-serve.fetchContainer" . | nindent 4 }}
  {{- end }}
  containers: {{- include "kascade-serve.serverContainer" . | nindent 4 }}
  volumes: {{- include "kascade-serve.serverVolumes" . | nindent 4 }}
{{- end -}}
