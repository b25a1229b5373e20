{{/* Names and labels that the templates share. */}}

{{- define "tracer.name" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $name = ternary .Release.Name (printf "%s-tracer" .Release.Name) (contains "tracer" .Release.Name) -}}
{{- end -}}
{{- $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "tracer.selector" -}}
app.kubernetes.io/name: tracer
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tracer.labels" -}}
{{ include "tracer.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.extraLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Directories of the node, read-only and at the same place. */}}
{{- define "tracer.mounts" -}}
- {name: cgroup, path: /sys/fs/cgroup, type: Directory}
- {name: netns, path: /run/netns, type: DirectoryOrCreate, propagation: HostToContainer}
- {name: container-logs, path: /var/log/containers, type: DirectoryOrCreate}
- {name: pod-logs, path: /var/log/pods, type: DirectoryOrCreate}
{{- end -}}
