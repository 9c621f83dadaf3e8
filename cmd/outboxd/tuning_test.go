package main

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"outboxd/internal/config"
	"outboxd/internal/rawconn"
	"outboxd/internal/status"
)

// unset removes a variable of the environment for the time of a test.
func unset(t *testing.T, name string) {
	t.Helper()
	t.Setenv(name, "") // brings it back
	os.Unsetenv(name)
}

// The memory limit is what the configuration says, or else the environment.
func TestMemoryLimitSwitch(t *testing.T) {
	gc, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetGCPercent(gc); debug.SetMemoryLimit(limit) })
	const fallback = 1 << 40
	for _, test := range []struct {
		name       string
		limit      config.MemoryLimit
		gogc, goml string // in the environment
		wantGC     int
		want       float64
	}{
		{"auto", config.AutoMemoryLimit, "", "", gcPercent, fallback},
		{"auto, both in the environment", config.AutoMemoryLimit, "100", "2TiB", 100, math.Inf(1)},
		{"a size", 3 << 40, "", "", gcPercent, 3 << 40},
		{"a size, and another in the environment", 3 << 40, "", "2TiB", gcPercent, 3 << 40},
		{"off", config.NoMemoryLimit, "", "", 100, math.Inf(1)},
	} {
		unset(t, "GOGC")
		unset(t, "GOMEMLIMIT")
		if test.gogc != "" {
			t.Setenv("GOGC", test.gogc)
		}
		if test.goml != "" {
			t.Setenv("GOMEMLIMIT", test.goml)
		}
		// As the runtime starts without them; it alone reads the environment.
		debug.SetGCPercent(100)
		debug.SetMemoryLimit(math.MaxInt64)
		limitMemory(test.limit, fallback)
		if got := heapLimit(); got != test.want {
			t.Errorf("%s: the limit is %.0f, want %.0f", test.name, got, test.want)
		}
		if got := debug.SetGCPercent(100); got != test.wantGC {
			t.Errorf("%s: GOGC is %d, want %d", test.name, got, test.wantGC)
		}
	}
}

// A number of processors is kept, and auto is one without load.
func TestProcessorsSwitch(t *testing.T) {
	unset(t, "GOMAXPROCS")
	before := runtime.GOMAXPROCS(0)
	gc, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
	t.Cleanup(func() { runtime.GOMAXPROCS(before); debug.SetGCPercent(gc); debug.SetMemoryLimit(limit) })
	cfg := config.Default()
	cfg.Tuning.MemoryLimit = config.NoMemoryLimit
	for _, n := range []config.Processors{3, 2} {
		cfg.Tuning.Processors = n
		if tuneProcess(t.Context(), cfg); runtime.GOMAXPROCS(0) != int(n) {
			t.Errorf("%d processors, want %d", runtime.GOMAXPROCS(0), n)
		}
	}
	cfg.Tuning.Processors = 0
	if tuneProcess(t.Context(), cfg); runtime.GOMAXPROCS(0) != 1 {
		t.Errorf("auto: %d processors", runtime.GOMAXPROCS(0))
	}
}

// The switches reach the stages, and the metrics tell what is in force.
func TestSwitchesReachTheStages(t *testing.T) {
	t.Cleanup(func() { rawconn.Enable(true) })
	for _, on := range []bool{true, false} {
		cfg := config.Default()
		cfg.Postgres.DSN, cfg.Kafka.Brokers = config.NewSecret("host=db"), []string{"k:9092"}
		cfg.Tuning.DelayReads, cfg.Tuning.DelaySends, cfg.Tuning.RawSockets = on, on, on
		st := status.New(time.Minute)
		o, err := connectorOptions(cfg, st, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		if o.Source.NeverDelayReads == on {
			t.Errorf("on %t: reads are never delayed: %t", on, o.Source.NeverDelayReads)
		}
		if delayed := o.Sink.Backlog > 0; delayed != on {
			t.Errorf("on %t: events wait: %t", on, delayed)
		}
		if rawconn.Enabled() != on {
			t.Errorf("on %t: sockets are raw: %t", on, rawconn.Enabled())
		}
		o.Source.ReadDelays.Add(3)
		o.Sink.SendDelays.Add(5)
		families, err := st.Metrics().Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]float64)
		for _, f := range families {
			m := f.GetMetric()[0]
			got[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
		for name, want := range map[string]float64{
			"outboxd_read_delays_total": 3, "outboxd_send_delays_total": 5, "outboxd_raw_sockets": float64(rawconn.Open()),
			"outboxd_processors": float64(runtime.GOMAXPROCS(0)), "outboxd_memory_limit_bytes": heapLimit(),
		} {
			if value, there := got[name]; !there || value != want {
				t.Errorf("%s is %f (%t), want %f", name, value, there, want)
			}
		}
	}
}

// The page for who suspects an optimisation turns all of them off, and names each
// switch and its metric.
func TestTuningPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## If you suspect an optimisation\n")
	section, _, _ = strings.Cut(section, "\n## ")
	_, yaml, _ := strings.Cut(section, "```yaml\n")
	yaml, _, _ = strings.Cut(yaml, "```")
	file := filepath.Join(t.TempDir(), "outboxd.yaml")
	if err := os.WriteFile(file, []byte("postgres: {dsn: host=db}\nkafka: {brokers: [k]}\n"+yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := (config.Tuning{Processors: 4, MemoryLimit: config.NoMemoryLimit}); cfg.Tuning != want {
		t.Errorf("the page's configuration is %+v, want %+v", cfg.Tuning, want)
	}
	keys := reflect.TypeFor[config.Tuning]()
	for i := range keys.NumField() {
		if key := keys.Field(i).Tag.Get("yaml"); !strings.Contains(section, "`tuning."+key+": ") {
			t.Errorf("the page does not name tuning.%s", key)
		}
	}
	if rows := strings.Count(section, "| `outboxd_"); rows != keys.NumField() {
		t.Errorf("the page names %d metrics for %d switches", rows, keys.NumField())
	}
}
