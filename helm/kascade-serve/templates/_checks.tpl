{{/* Whether more than one server may run. */}}
{{- define "kascade-serve.severalServers" -}}
{{- if or (gt (int .Values.workload.replicas) 1) (ne .Values.autoscaling.kind "none") -}}true{{- end -}}
{{- end -}}

{{/* Whether pods share a volume of this chart that only one node can mount. */}}
{{- define "kascade-serve.oneNode" -}}
{{- $model := and (eq .Values.model.source "newClaim") (not (has "ReadWriteMany" .Values.model.accessModes)) -}}
{{- $schedules := and .Values.schedules.persistent (not .Values.schedules.claimName)
      (eq .Values.workload.kind "Deployment") (not (has "ReadWriteMany" .Values.schedules.accessModes)) -}}
{{- if $model -}}model{{- else if $schedules -}}schedules{{- end -}}
{{- end -}}

{{/* What no schema can say, as it takes several values together. */}}
{{- define "kascade-serve.checks" -}}
{{- $shared := include "kascade-serve.oneNode" . -}}
{{- if and $shared (include "kascade-serve.severalServers" .) -}}
{{- fail (printf "%s.accessModes: several servers share this volume, so it must have ReadWriteMany%s" $shared
      (ternary ", or workload.kind must be StatefulSet" "" (eq $shared "schedules"))) -}}
{{- end -}}
{{- if and (eq .Values.workload.kind "StatefulSet") (not .Values.service.headless) -}}
{{- fail "service.headless: a StatefulSet needs the headless service, so it must be true" -}}
{{- end -}}
{{- if and .Values.schedules.claimName (not .Values.schedules.persistent) -}}
{{- fail "schedules.persistent: must be true where schedules.claimName names a claim" -}}
{{- end -}}
{{- if and .Values.tls.clientCa.secretName (not .Values.tls.secretName) -}}
{{- fail "tls.clientCa.secretName: client certificates need TLS, so tls.secretName must name a Secret too" -}}
{{- end -}}
{{- if and .Values.tls.clientCa.secretName (not .Values.client.certificateSecretName)
      (or .Values.calibration.enabled .Values.scoring.enabled) -}}
{{- fail "client.certificateSecretName: tls.clientCa asks clients for a certificate, and so the jobs need one" -}}
{{- end -}}
{{- if and .Values.tokens.secretName (not .Values.client.token.secretName)
      (or .Values.calibration.enabled .Values.scoring.enabled) -}}
{{- fail "client.token.secretName: the server accepts callers with a token only, and so the jobs need one" -}}
{{- end -}}
{{- if and .Values.monitoring.serviceMonitor.enabled .Values.monitoring.podMonitor.enabled -}}
{{- fail "monitoring.podMonitor.enabled: a ServiceMonitor is enabled too, and each server would be scraped twice" -}}
{{- end -}}
{{- if and .Values.inferencePool.enabled .Values.grpcRoute.enabled -}}
{{- fail "grpcRoute.enabled: the HTTPRoute of inferencePool carries the same calls, and a gateway takes one of both" -}}
{{- end -}}
{{- if and .Values.inferencePool.enabled .Values.tls.secretName -}}
{{- fail "inferencePool.enabled: a gateway reaches the servers of a pool in plaintext, so tls.secretName must be empty" -}}
{{- end -}}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas: %d is more than autoscaling.maxReplicas, %d"
      (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if and .Values.calibration.enabled (include "kascade-serve.severalServers" .) -}}
{{- fail "calibration.enabled: the schedule would be active in one of several servers only; calibrate with one, and give its schedule to all by schedules.initial.configMap" -}}
{{- end -}}
{{- end -}}
