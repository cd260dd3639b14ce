{{- define "nascale.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "nascale.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "nascale.labels" -}}
{{ include "nascale.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "nascale.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "nascale.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name must be set where serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "nascale.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- /* Not empty where the operator may list nodes. */ -}}
{{- define "nascale.readsNodes" -}}
{{- $wanted := .Values.rbac.readNodes -}}
{{- if or (eq $wanted "Always") (and (eq $wanted "Auto") (not .Values.namespaces)) -}}
Always
{{- end -}}
{{- end -}}

{{- /* Stops where a kind of the Prometheus Operator is wanted and its CRDs are not installed. */ -}}
{{- define "nascale.needsPrometheusOperator" -}}
{{- if not (.root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") -}}
{{- fail (printf "monitoring.%s.enabled: must be false where the Prometheus Operator's CRDs (monitoring.coreos.com/v1) are not installed; helm template learns of them by --api-versions monitoring.coreos.com/v1" .part) -}}
{{- end -}}
{{- end -}}
