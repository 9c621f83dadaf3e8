package validate

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write docker/kubernetes from the chart")

const chartDir = "../helm/outboxd"

// everything turns on what is off by default.
const everything = `{serviceMonitor: {enabled: true, labels: {release: prometheus}, endpoint: {scheme: https, authorization: {credentials: {name: outboxd, key: token}}}}, prometheusRule: {enabled: true, runbooks: "https://example.com/runbooks/"},
dashboard: {enabled: true}, podAnnotations: {a: b}, podLabels: {team: shop}, nodeSelector: {disk: ssd}, tolerations: [{key: a, operator: Exists}],
affinity: {nodeAffinity: {}}, priorityClassName: high, imagePullSecrets: [{name: pull}], serviceAccount: {annotations: {a: b}},
extraEnv: [{name: PGPASSWORD, valueFrom: {secretKeyRef: {name: a, key: b}}}],
extraVolumes: [{name: state, emptyDir: {}}], extraVolumeMounts: [{name: state, mountPath: /var/lib/outboxd}]}`

// template is `helm template outboxd`: the rendered files by name.
func template(t *testing.T, values string) (map[string]string, error) {
	t.Helper()
	chart, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	var given map[string]any
	if err := yaml.Unmarshal([]byte(values), &given); err != nil {
		t.Fatal(err)
	}
	v, err := util.ToRenderValues(chart, given, common.ReleaseOptions{Name: "outboxd", Namespace: "shop", IsInstall: true, Revision: 1}, nil)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(chart, v)
	maps.DeleteFunc(files, func(name, text string) bool { return strings.TrimSpace(text) == "" })
	return files, err
}

func mustTemplate(t *testing.T, values string) map[string]string {
	t.Helper()
	files, err := template(t, values)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// object finds a kind among rendered files, and reads it strictly.
func object(t *testing.T, files map[string]string, kind string, into any) {
	t.Helper()
	for name, text := range files {
		if strings.Contains(text, "\nkind: "+kind+"\n") {
			if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return
		}
	}
	t.Errorf("no %s", kind)
}

func TestChartIsLinted(t *testing.T) {
	for _, values := range []string{"{}", everything} {
		var given map[string]any
		if err := yaml.Unmarshal([]byte(values), &given); err != nil {
			t.Fatal(err)
		}
		linter := lint.RunAll(chartDir, given, "shop")
		for _, m := range linter.Messages {
			// An icon is for a public catalogue of charts.
			if m.Severity > support.InfoSev {
				t.Error(m)
			}
		}
	}
}

// What the chart renders are valid objects of Kubernetes, old and new.
func TestChartIsValid(t *testing.T) {
	tool := python(t, "kubernetes-validate")
	for i, values := range []string{"{}", everything, "{serviceAccount: {create: false}, podDisruptionBudget: {enabled: false}, replicas: 1}"} {
		files := mustTemplate(t, values)
		dir, paths := t.TempDir(), []string(nil)
		for name, text := range files {
			if strings.HasSuffix(name, "NOTES.txt") || strings.Contains(text, "apiVersion: monitoring.coreos.com/") {
				continue
			}
			path := filepath.Join(dir, filepath.Base(name))
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			paths = append(paths, path)
		}
		if len(paths) < 3 {
			t.Fatalf("values %d: only %v", i, paths)
		}
		for _, version := range []string{"1.32", "1.37"} {
			output(t, tool, append([]string{"--strict", "--kubernetes-version", version}, paths...)...)
		}
	}
	files := mustTemplate(t, everything)
	var monitor monitoring.ServiceMonitor
	object(t, files, "ServiceMonitor", &monitor)
	var service core.Service
	object(t, files, "Service", &service)
	if endpoint := monitor.Spec.Endpoints[0]; endpoint.Authorization.Credentials.Key != "token" || endpoint.Scheme.String() != "https" {
		t.Errorf("the monitor does not log in: %+v", endpoint)
	}
	if port := monitor.Spec.Endpoints[0].Port; port != service.Spec.Ports[0].Name {
		t.Errorf("the monitor scrapes port %q of the service's %v", port, service.Spec.Ports)
	}
	for key, value := range monitor.Spec.Selector.MatchLabels {
		if service.Labels[key] != value {
			t.Errorf("the monitor looks for %s=%s, the service has %q", key, value, service.Labels[key])
		}
	}
	var rules monitoring.PrometheusRule
	object(t, files, "PrometheusRule", &rules)
	n := 0
	for _, g := range rules.Spec.Groups {
		for _, r := range g.Rules {
			n++
			if !strings.HasPrefix(r.Annotations["runbook_url"], "https://example.com/runbooks/") || !strings.Contains(r.Annotations["description"], "{{ $") {
				t.Errorf("%s: %v", r.Alert, r.Annotations)
			}
		}
	}
	if n != len(alerts(t)) {
		t.Errorf("%d alerts in the chart, %d in rules.yaml", n, len(alerts(t)))
	}
	for name, text := range files {
		if strings.HasSuffix(name, "dashboard.yaml") && !strings.Contains(text, `"title": "outboxd"`) {
			t.Errorf("no dashboard in %s", text)
		}
	}
}

// What a pod may do and how it is asked, by the contract.
func TestChartDeployment(t *testing.T) {
	files := mustTemplate(t, "{}")
	var d apps.Deployment
	object(t, files, "Deployment", &d)
	pod := d.Spec.Template.Spec
	c := pod.Containers[0]
	security, pods := c.SecurityContext, pod.SecurityContext
	if !*pods.RunAsNonRoot || *pods.RunAsUser == 0 || pods.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault ||
		*security.AllowPrivilegeEscalation || !*security.ReadOnlyRootFilesystem || !slices.Equal(security.Capabilities.Drop, []core.Capability{"ALL"}) || *pod.AutomountServiceAccountToken {
		t.Errorf("not what the restricted pod security standard asks for: %+v %+v", pods, security)
	}
	want := fmt.Sprintf("%d:%d", *pods.RunAsUser, *pods.RunAsGroup)
	if got := regexp.MustCompile(`(?m)^USER (.*)$`).FindStringSubmatch(read(t, "Dockerfile"))[1]; got != want {
		t.Errorf("the pod runs as %s, the image as %s", want, got)
	}
	if c.LivenessProbe.HTTPGet.Path != "/healthz" || c.StartupProbe.HTTPGet.Path != "/healthz" || c.ReadinessProbe.HTTPGet.Path != "/readyz" {
		t.Error("the probes ask for something else")
	}
	if *pod.TerminationGracePeriodSeconds < 40 {
		t.Errorf("%d s to end in", *pod.TerminationGracePeriodSeconds)
	}
	if d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() != 0 {
		t.Error("an update ends the streaming pod before its successor stands by")
	}
	if c.Ports[0].ContainerPort != 9188 {
		t.Errorf("port %d", c.Ports[0].ContainerPort)
	}

	var encrypted apps.Deployment
	object(t, mustTemplate(t, "{config: {http: {tls: {cert: /run/secrets/outboxd/tls.crt, key: /run/secrets/outboxd/tls.key}}}}"), "Deployment", &encrypted)
	for _, probe := range []*core.Probe{encrypted.Spec.Template.Spec.Containers[0].LivenessProbe, encrypted.Spec.Template.Spec.Containers[0].ReadinessProbe, encrypted.Spec.Template.Spec.Containers[0].StartupProbe} {
		if probe.HTTPGet.Scheme != core.URISchemeHTTPS {
			t.Errorf("with http.tls a probe still asks over %q", probe.HTTPGet.Scheme)
		}
	}

	// The configuration in the ConfigMap loads, where the pod looks for it.
	var cm core.ConfigMap
	object(t, files, "ConfigMap", &cm)
	cfg, err := load(t, cm.Data["outboxd.yaml"])
	if err != nil {
		t.Fatal(err)
	}
	if _, port, _ := strings.Cut(cfg.HTTP.Listen, ":"); port != fmt.Sprint(c.Ports[0].ContainerPort) {
		t.Errorf("it listens on %s, the probes ask %d", cfg.HTTP.Listen, c.Ports[0].ContainerPort)
	}
	if !slices.Equal(c.Args, []string{"run", "--config", "/etc/outboxd/outboxd.yaml"}) || c.VolumeMounts[0].MountPath != "/etc/outboxd" {
		t.Errorf("args %v, mounts %v", c.Args, c.VolumeMounts)
	}

	// The root is read-only, and reconcile needs temporary files.
	for values, want := range map[string]int{"{}": 1, everything: 1,
		"{extraVolumes: [{name: big, emptyDir: {}}], extraVolumeMounts: [{name: big, mountPath: /tmp}]}": 0} {
		var d apps.Deployment
		object(t, mustTemplate(t, values), "Deployment", &d)
		mounted, ours := 0, 0
		for _, m := range d.Spec.Template.Spec.Containers[0].VolumeMounts {
			if m.MountPath != "/tmp" {
				continue
			}
			mounted++
			for _, v := range d.Spec.Template.Spec.Volumes {
				if v.Name == m.Name && (v.EmptyDir == nil || m.ReadOnly) {
					t.Errorf("/tmp cannot be written to: %+v", v)
				}
				if v.Name == "temporary-files" {
					ours++
				}
			}
		}
		if mounted != 1 || ours != want {
			t.Errorf("%s: %d volumes at /tmp, %d of them the chart's", values, mounted, ours)
		}
	}

	// Another configuration is another pod.
	var changed apps.Deployment
	object(t, mustTemplate(t, "{config: {log: {level: debug}}}"), "Deployment", &changed)
	if changed.Spec.Template.Annotations["checksum/config"] == d.Spec.Template.Annotations["checksum/config"] {
		t.Error("a changed configuration does not roll the pods")
	}
}

func TestChartMemory(t *testing.T) {
	for size, want := range map[string]string{
		"64MiB": "64Mi 192Mi", "16MiB": "64Mi 192Mi", "256MiB": "256Mi 576Mi", "1GiB": "1024Mi 2112Mi", "500 MB": "477Mi 1018Mi", "268435456": "256Mi 576Mi", `"268435456"`: "256Mi 576Mi",
	} {
		var d apps.Deployment
		object(t, mustTemplate(t, "{config: {kafka: {max_buffered: "+size+"}}}"), "Deployment", &d)
		r := d.Spec.Template.Spec.Containers[0].Resources
		if got := r.Requests.Memory().String() + " " + r.Limits.Memory().String(); got != normal(want) {
			t.Errorf("max_buffered %s: memory %s, want %s", size, got, want)
		}
	}
	var d apps.Deployment
	object(t, mustTemplate(t, "{resources: {limits: {memory: 1Gi}}}"), "Deployment", &d)
	if got := d.Spec.Template.Spec.Containers[0].Resources.Limits.Memory().String(); got != "1Gi" {
		t.Errorf("resources are not taken over: %s", got)
	}
}

// normal writes 1024Mi as Kubernetes does.
func normal(s string) string { return strings.ReplaceAll(s, "1024Mi", "1Gi") }

// A mistake is refused at install, not found in a pod's log.
func TestChartRefuses(t *testing.T) {
	for values, says := range map[string]string{
		"{replica: 3}": "replica",
		"{config: {postgres: {dsn: 'postgres://outboxd:secret@db/shop'}}}": "dsn",
		"{config: {kafka: {brokers: []}}}":                                 "brokers",
		"{config: {kafka: {max_buffered: lots}}}":                          "max_buffered",
		"{config: {http: {listen: '127.0.0.1:9188'}}}":                     "listen",
		"{config: {delivery: {store: file}}}":                              "needs a volume",
		"{secretName: ''}":                                                 "secretName",
	} {
		if _, err := template(t, values); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want an error that says %q", values, err, says)
		}
	}
}

// The plain manifests are what the chart renders by default.
func TestManifests(t *testing.T) {
	files := mustTemplate(t, "{}")
	var b strings.Builder
	b.WriteString(`# outboxd on Kubernetes without Helm: what docker/helm/outboxd renders by default.
# Set the image, kafka.brokers in the ConfigMap, and make the secret first:
#
#   kubectl create secret generic outboxd --from-literal=dsn='postgres://outboxd:PASSWORD@db/shop'
`)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, ".txt") {
			continue
		}
		text := regexp.MustCompile(`(?m)^ +(helm\.sh/chart|app\.kubernetes\.io/managed-by|checksum/config): .*\n`).ReplaceAllString(strings.TrimSpace(files[name])+"\n", "")
		text = regexp.MustCompile(`(?m)^ +annotations:\n( +spec:)`).ReplaceAllString(text, "$1")
		b.WriteString("---\n" + text)
	}
	const path = "kubernetes/outboxd.yaml"
	if *update {
		if err := os.WriteFile(filepath.Join("..", path), []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if read(t, path) != b.String() {
		t.Errorf("%s is not what the chart renders: go test ./validate -run TestManifests -update", path)
	}
	output(t, python(t, "kubernetes-validate"), "--strict", "../"+path)
}
