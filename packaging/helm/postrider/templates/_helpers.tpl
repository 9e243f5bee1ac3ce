{{- define "postrider.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* 50 at most: a StatefulSet puts a hash of 11 behind it into a label of 63. */}}
{{- define "postrider.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "postrider.selector" -}}
app.kubernetes.io/name: {{ include "postrider.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The server's pods alone: the Service must not reach those of a Job or of the test. */}}
{{- define "postrider.serverSelector" -}}
{{ include "postrider.selector" . }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "postrider.labels" -}}
{{ include "postrider.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "postrider.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "postrider.scheme" -}}
{{- if dig "server" "tls" nil .Values.config }}https{{ else }}http{{ end -}}
{{- end -}}

{{/* The Service, as other pods reach it. */}}
{{- define "postrider.host" -}}
{{ include "postrider.fullname" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end -}}

{{- define "postrider.hasMetricsPort" -}}
{{- if and .Values.metrics.enabled (not .Values.postgresql.existingSecret) }}yes{{ end -}}
{{- end -}}

{{/* Seconds before a node ends; 0 where nobody else could answer, or the cluster does not know the pause. */}}
{{- define "postrider.preStop" -}}
{{- if and (gt (int .Values.replicas) 1) (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) -}}
{{ int .Values.preStopSeconds }}
{{- else -}}
0
{{- end -}}
{{- end -}}

{{/* A value as TOML. JSON's texts are TOML's too. Numbers come as floating ones: whole ones are written without a point. */}}
{{- define "postrider.toml" -}}
{{- if kindIs "string" . -}}
{{ toRawJson . }}
{{- else if kindIs "bool" . -}}
{{ . }}
{{- else if kindIs "slice" . -}}
[{{ range $at, $one := . }}{{ if $at }}, {{ end }}{{ include "postrider.toml" $one }}{{ end }}]
{{- else if kindIs "map" . -}}
{ {{ range $at, $key := keys . | sortAlpha }}{{ if $at }}, {{ end }}{{ $key }} = {{ include "postrider.toml" (get $ $key) }}{{ end }} }
{{- else if eq (float64 .) (floor .) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{/* What config says, with what the chart knows. */}}
{{- define "postrider.config" -}}
{{- $keys := "/run/postrider-keys" -}}
{{- $previous := list -}}
{{- range .Values.masterKey.previousKeys }}{{ $previous = append $previous (printf "%s/%s" $keys .) }}{{ end -}}
{{- $secrets := dict "master_key_file" (printf "%s/%s" $keys .Values.masterKey.key) -}}
{{- if $previous }}{{ $_ := set $secrets "previous_key_files" $previous }}{{ end -}}
{{- $own := dict "server" (dict "listen" "0.0.0.0:8080") "store" (dict "directory" "/data") "secrets" $secrets -}}
{{- if include "postrider.hasMetricsPort" . }}{{ $_ := set $own "metrics" (dict "listen" "0.0.0.0:9464") }}{{ end -}}
{{- if and .Values.ingress.enabled (not (dig "server" "public_url" "" .Values.config)) -}}
{{- $scheme := ternary "https" "http" (not (empty .Values.ingress.tlsSecret)) -}}
{{- $_ := set $own.server "public_url" (printf "%s://%s" $scheme (first .Values.ingress.hosts)) -}}
{{- end -}}
{{- $all := mergeOverwrite (deepCopy .Values.config) $own -}}
{{- range $name := keys $all | sortAlpha }}
{{- $section := get $all $name }}
{{- if $section }}
[{{ $name }}]
{{- range $key := keys $section | sortAlpha }}
{{- $value := get $section $key }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ include "postrider.toml" $value }}
{{- end }}
{{- end }}
{{ end }}
{{- end }}
{{- end -}}

{{/* What cannot work is refused, with what to do. */}}
{{- define "postrider.checked" -}}
{{- if not .Values.masterKey.existingSecret -}}
{{- fail (printf "masterKey.existingSecret must name a Secret with the master key. Make one, and keep a copy of it elsewhere: kubectl --namespace %s create secret generic postrider-master-key --from-literal=%s=\"$(openssl rand -hex 32)\"" .Release.Namespace .Values.masterKey.key) -}}
{{- end -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.postgresql.existingSecret) -}}
{{- fail (printf "replicas is %d, but without PostgreSQL everything is in the volume of one pod. Set postgresql.existingSecret to a Secret with the URL of a database, or replicas to 1." (int .Values.replicas)) -}}
{{- end -}}
{{- range $path, $instead := dict
      "server.listen" "Pods listen on 8080; service.port is the Service's."
      "store.directory" "It is the volume."
      "store.url" "It has a password: put it into a Secret, and name that in postgresql.existingSecret."
      "nodes.url" "It is each pod's own name."
      "secrets.master_key_file" "Name the Secret in masterKey.existingSecret."
      "secrets.previous_key_files" "Name the keys of the Secret in masterKey.previousKeys."
      "metrics.listen" "Set metrics.enabled." -}}
{{- $at := splitList "." $path -}}
{{- if hasKey (default dict (get $.Values.config (first $at))) (last $at) -}}
{{- fail (printf "config.%s is set by the chart. %s" $path $instead) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.enabled needs ingress.hosts: the names that clients reach Postrider by." -}}
{{- end -}}
{{- if .Values.serviceMonitor.enabled -}}
{{- if and .Values.postgresql.existingSecret (not .Values.serviceMonitor.keySecret.name) -}}
{{- fail "With PostgreSQL metrics are collected through the API, which asks for a root key. Make one with `postrider key create metrics --read-only`, put it into a Secret, and name that in serviceMonitor.keySecret.name; until then set serviceMonitor.enabled to false." -}}
{{- end -}}
{{- if not (or .Values.postgresql.existingSecret .Values.metrics.enabled) -}}
{{- fail "serviceMonitor.enabled needs metrics.enabled: there is nothing to collect from." -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "postrider.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What the server's pods and a maintenance Job have in common, before `containers`. */}}
{{- define "postrider.pod" -}}
automountServiceAccountToken: false
# Variables of other Services, such as POSTRIDER_PORT, are of no use to it.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  # Otherwise each start goes through the whole volume, and lets the group write what was the server's alone.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What a container with the server's program has. */}}
{{- define "postrider.container" -}}
image: {{ include "postrider.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  # `prune --vacuum` writes a copy first: the volume has room for it, the image has no /tmp.
  - name: SQLITE_TMPDIR
    value: /data
  {{- if .Values.postgresql.existingSecret }}
  - name: POSTRIDER__STORE__URL
    valueFrom:
      secretKeyRef:
        name: {{ .Values.postgresql.existingSecret }}
        key: {{ .Values.postgresql.key }}
  # Where the other nodes reach this one.
  - name: POD_NAME
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
  - name: POSTRIDER__NODES__URL
    value: {{ include "postrider.scheme" . }}://$(POD_NAME).{{ include "postrider.fullname" . }}-nodes.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:8080
  {{- end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- include "postrider.containerSecurity" . | nindent 2 }}
volumeMounts:
  - name: data
    mountPath: /data
  - name: config
    mountPath: /etc/postrider
    readOnly: true
  - name: keys
    mountPath: /run/postrider-keys
    readOnly: true
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* The volumes but that of the data. */}}
{{- define "postrider.volumes" -}}
- name: config
  configMap:
    name: {{ include "postrider.fullname" . }}
# The pod's group reads it, which is the server's own.
- name: keys
  secret:
    secretName: {{ .Values.masterKey.existingSecret }}
    defaultMode: 0440
    items:
      {{- range prepend .Values.masterKey.previousKeys .Values.masterKey.key }}
      - key: {{ . | quote }}
        path: {{ . | quote }}
      {{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
