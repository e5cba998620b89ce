{{- define "mosso.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "mosso.selector" -}}
app.kubernetes.io/name: mosso
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mosso.labels" -}}
{{ include "mosso.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "mosso.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "mosso.claim" -}}
{{ .Values.cache.existingClaim | default (printf "%s-cache" (include "mosso.name" .)) }}
{{- end -}}

{{- define "mosso.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
{{- end -}}

{{- define "mosso.mounts" -}}
- name: cache
  mountPath: /cache
- name: tmp
  mountPath: /tmp
{{- end -}}
