{{/* Pods that run the client against this release's server. */}}

{{- define "kascade-serve.clientArguments" -}}
- --server
- {{ printf "%s.%s.svc:%d" (include "kascade-serve.fullname" .) .Release.Namespace (int .Values.service.port) }}
{{- if .Values.tls.secretName }}
- --tls
{{- end }}
{{- if .Values.client.ca.secretName }}
- --tls-ca
- /etc/kascade/ca/{{ .Values.client.ca.key }}
{{- end }}
{{- if .Values.client.certificateSecretName }}
- --tls-cert
- /etc/kascade/certificate/tls.crt
- --tls-key
- /etc/kascade/certificate/tls.key
{{- end }}
{{- if .Values.client.token.secretName }}
- --token-file
- /etc/kascade/token/{{ .Values.client.token.key }}
{{- end }}
{{- end -}}

{{- define "kascade-serve.clientSecrets" -}}
{{- $secrets := dict "ca" .Values.client.ca.secretName "certificate" .Values.client.certificateSecretName
      "token" .Values.client.token.secretName -}}
{{- range $name, $secret := $secrets }}
{{- if not $secret }}{{ $_ := unset $secrets $name }}{{ end }}
{{- end }}
{{- toYaml $secrets }}
{{- end -}}

{{- define "kascade-serve.clientMounts" -}}
{{- range $name, $secret := include "kascade-serve.clientSecrets" . | fromYaml }}
- name: {{ $name }}
  mountPath: /etc/kascade/{{ $name }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "kascade-serve.clientVolumes" -}}
{{- range $name, $secret := include "kascade-serve.clientSecrets" . | fromYaml }}
- name: {{ $name }}
  secret:
    secretName: {{ $secret }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{/* What a container of the client has but its name, arguments, resources and mounts. */}}
{{- define "kascade-serve.clientContainer" -}}
image: {{ include "kascade-serve.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext: {{- toYaml .Values.containerSecurityContext | nindent 2 }}
{{- end -}}

{{/* Waits until the server is healthy. Its end is that of the Job's deadline. */}}
{{- define "kascade-serve.waitContainer" -}}
- name: wait-for-server
  {{- include "kascade-serve.clientContainer" . | nindent 2 }}
  command: [/bin/sh, -c, 'until kascade --timeout 10 "$@" health; do sleep 5; done', wait]
  args: {{- include "kascade-serve.clientArguments" . | nindent 4 }}
  resources:
    limits:
      memory: 256Mi
  volumeMounts: {{- include "kascade-serve.clientMounts" . | trim | default "[]" | nindent 4 }}
{{- end -}}
