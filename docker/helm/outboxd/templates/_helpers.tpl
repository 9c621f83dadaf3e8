{{- define "outboxd.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "outboxd.selectorLabels" -}}
app.kubernetes.io/name: outboxd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "outboxd.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "outboxd.selectorLabels" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "outboxd.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "outboxd.name" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "outboxd.port" -}}
{{ .Values.config.http.listen | splitList ":" | last }}
{{- end -}}

{{/* Whether extraVolumeMounts mounts something at /tmp. */}}
{{- define "outboxd.hasTmp" -}}
{{- range .Values.extraVolumeMounts }}{{ if eq (trimSuffix "/" .mountPath) "/tmp" }}true{{ end }}{{ end -}}
{{- end -}}

{{/* kafka.max_buffered in MiB, rounded up, at least the 64 that the process takes anyway. */}}
{{- define "outboxd.maxBufferedMiB" -}}
{{- $text := .Values.config.kafka.max_buffered | default "64MiB" | toString | replace " " "" -}}
{{- /* A large whole number in YAML arrives as a float. */ -}}
{{- if kindIs "float64" .Values.config.kafka.max_buffered }}{{ $text = .Values.config.kafka.max_buffered | int64 | toString }}{{ end -}}
{{- $number := regexFind "^[0-9]+" $text | int64 -}}
{{- $unit := regexFind "[A-Za-z]*$" $text | default "B" -}}
{{- $factor := get (dict "B" 1 "kB" 1000 "KB" 1000 "MB" 1000000 "GB" 1000000000 "KiB" 1024 "MiB" 1048576 "GiB" 1073741824) $unit -}}
{{- if not $factor }}{{ fail (printf "config.kafka.max_buffered: %s is not a size such as 64MiB" $text) }}{{ end -}}
{{ max 64 (div (add (mul $number $factor) 1048575) 1048576) }}
{{- end -}}

{{- define "outboxd.resources" -}}
{{- if .Values.resources -}}
{{ toYaml .Values.resources }}
{{- else -}}
{{- $size := include "outboxd.maxBufferedMiB" . | int64 -}}
requests:
  cpu: 100m
  memory: {{ $size }}Mi
limits:
  memory: {{ add (mul 2 $size) 64 }}Mi
{{- end -}}
{{- end -}}
