package validate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"sigs.k8s.io/yaml"
)

// composeProject loads compose.yaml as Docker Compose does: by the schema, and with
// every reference resolved.
func composeProject(t *testing.T, env ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{"../compose.yaml"}, cli.WithEnv(env))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestCompose(t *testing.T) {
	project := composeProject(t)
	for name, service := range project.Services {
		// One that nothing waits for in vain: each can be asked, or ends by itself,
		// or is the one without a program to ask with.
		if service.HealthCheck == nil && name != "init" && name != "outboxd" {
			t.Errorf("%s has no health check", name)
		}
		if tag := service.Image[strings.LastIndex(service.Image, ":")+1:]; service.Build == nil && (tag == service.Image || tag == "latest") {
			t.Errorf("%s: image %s has no version", name, service.Image)
		}
		for on, condition := range service.DependsOn {
			want := types.ServiceConditionHealthy
			if project.Services[on].HealthCheck == nil {
				want = types.ServiceConditionCompletedSuccessfully
			}
			if condition.Condition != want {
				t.Errorf("%s waits until %s is %s", name, on, condition.Condition)
			}
		}
		for _, volume := range service.Volumes {
			if _, err := os.Stat(volume.Source); volume.Type == types.VolumeTypeBind && err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s opens port %s to the network", name, port.Published)
			}
		}
	}
	for name, secret := range project.Secrets {
		// An editor's newline at the end would be part of the password.
		if content, err := os.ReadFile(secret.File); err != nil || strings.TrimSpace(string(content)) != string(content) {
			t.Errorf("secret %s: %v, %q", name, err, content)
		}
	}
	for _, name := range []string{"init", "outboxd"} {
		s := project.Services[name]
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) {
			t.Errorf("%s: read-only %t, cap_drop %v, security_opt %v", name, s.ReadOnly, s.CapDrop, s.SecurityOpt)
		}
		if name == "outboxd" && !slices.Contains(s.Tmpfs, "/tmp:size=64m") {
			t.Errorf("%s: no /tmp that reconcile could write to: %v", name, s.Tmpfs)
		}
		if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What outboxd gets in compose.yaml is a configuration that loads, and names the
// services that are there.
func TestComposeConfiguration(t *testing.T) {
	for _, format := range []string{"", "avro"} {
		var env []string
		if format != "" {
			env = append(env, "VALUE_FORMAT="+format)
		}
		project := composeProject(t, env...)
		for _, name := range []string{"init", "outboxd"} {
			var variables []string
			for key, value := range project.Services[name].Environment {
				variables = append(variables, key+"="+*value)
			}
			cfg, err := load(t, read(t, "outboxd.yaml"), variables...)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, broker := range cfg.Kafka.Brokers {
				checkAddress(t, project, broker)
			}
			if name == "outboxd" && format == "avro" {
				if cfg.Value.Format != "avro" {
					t.Errorf("format %s", cfg.Value.Format)
				}
				checkAddress(t, project, strings.Split(strings.TrimPrefix(cfg.Value.Avro.Registry.Reveal(), "http://"), "/")[0])
			}
		}
	}
	project := composeProject(t)
	dsn := strings.TrimPrefix(read(t, "compose/dsn"), "postgres://outboxd:demo@")
	if host, database, _ := strings.Cut(dsn, "/"); project.Services[host].Image == "" || *project.Services[host].Environment["POSTGRES_DB"] != database {
		t.Errorf("the secret dsn names %s", dsn)
	}
	if p := read(t, "compose/postgres_password"); !strings.HasPrefix(*project.Services["init"].Environment["OUTBOXD_POSTGRES_DSN"], "postgres://postgres:"+p+"@") {
		t.Errorf("init does not log in with the password %s", p)
	}
	command := strings.Join(project.Services["postgres"].Command, " ")
	for _, setting := range []string{"wal_level=logical", "max_slot_wal_keep_size="} {
		if !strings.Contains(command, "-c "+setting) {
			t.Errorf("PostgreSQL is started without %s: %s", setting, command)
		}
	}
	var prometheus struct {
		ScrapeConfigs []struct {
			StaticConfigs []struct{ Targets []string } `json:"static_configs"`
		} `json:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "prometheus/prometheus.yaml")), &prometheus); err != nil {
		t.Fatal(err)
	}
	if target := prometheus.ScrapeConfigs[0].StaticConfigs[0].Targets[0]; target != "outboxd:9188" {
		t.Errorf("Prometheus scrapes %s", target)
	}
	var sources struct{ Datasources []struct{ URL string } }
	if err := yaml.Unmarshal([]byte(read(t, "grafana/provisioning/datasources/prometheus.yaml")), &sources); err != nil {
		t.Fatal(err)
	}
	if url := sources.Datasources[0].URL; url != "http://prometheus:9090" {
		t.Errorf("Grafana asks %s", url)
	}
}

// checkAddress demands that host is a service.
func checkAddress(t *testing.T, project *types.Project, address string) {
	t.Helper()
	host, _, _ := strings.Cut(address, ":")
	if _, ok := project.Services[host]; !ok {
		t.Errorf("%s: no service %q", address, host)
	}
}
