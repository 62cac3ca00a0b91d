{{- define "skewless.name" -}}
{{- if contains "skewless" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-skewless" (.Release.Name | trunc 31 | trimSuffix "-") }}{{ end }}
{{- end }}

{{- define "skewless.selector" -}}
app.kubernetes.io/name: skewless
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "skewless.labels" -}}
{{ include "skewless.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* image: production, or a role's lock. */}}
{{- define "skewless.image" -}}
{{- $image := .root.Values.image -}}
{{- $tag := $image.tag | default .root.Chart.AppVersion -}}
{{- if and $image.byRole (ne .image "production") }}{{ $tag = printf "%s-%s" $tag .image }}{{ end -}}
{{ printf "%s:%s" $image.repository $tag }}
{{- end }}

{{/* What every pod has: no rights, no token unless it needs one, nothing to write but /tmp. */}}
{{- define "skewless.pod" -}}
automountServiceAccountToken: {{ .token | default false }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What every container of ours has. */}}
{{- define "skewless.container" -}}
image: {{ include "skewless.image" . | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
env:
  {{- $secret := .secretName | default .root.Values.secretName }}
  {{- range list "SKEWLESS_POSTGRES_URL" "SKEWLESS_REDIS_URL" "SKEWLESS_KAFKA_BOOTSTRAP" }}
  - name: {{ . }}
    valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ . }}, optional: {{ eq . "SKEWLESS_KAFKA_BOOTSTRAP" }}}}
  {{- end }}
  {{- range .optional }}
  - name: {{ . }}
    valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ . }}, optional: true}}
  {{- end }}
  - name: SKEWLESS_LOG_FORMAT
    value: {{ .root.Values.logFormat }}
  {{- with .root.Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
resources: {{ toYaml .resources | nindent 2 }}
{{- end }}

{{- define "skewless.tmp" -}}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
{{- end }}
