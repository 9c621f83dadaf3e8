package e2e

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What a process may grow by between the early and the late part of its life. Each part
// is a third of it, after a tenth to warm up, and counts by its lower quartile: a
// comparison raises samples for a while, a server that is down lowers some, a leak raises
// all of them. Files count by their least sample, since a comparison, which may take most
// of the time on a busy machine, has 256.
const (
	growGoroutines = 10
	growFiles      = 10
	growHeap       = 16 << 20 // bytes
)

// shortestLife is how many samples, one a second, a life has whose growth says anything.
const shortestLife = 60

// usage is what a process takes at one moment.
type usage struct {
	goroutines, files, heap, rss float64
}

// watcher samples the metrics of a connector, of one process after the other.
type watcher struct {
	stopped chan struct{}
	ended   sync.WaitGroup

	mu         sync.Mutex
	process    *connector
	address    string
	lives      [][]usage
	mismatches map[string]float64 // of reconcile.every, by sample: the most
}

func startWatcher(t *testing.T) *watcher {
	w := &watcher{stopped: make(chan struct{}), mismatches: make(map[string]float64)}
	w.ended.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-w.stopped:
				return
			case <-tick.C:
				w.sample()
			}
		}
	})
	t.Cleanup(w.stop)
	return w
}

// stop may be called twice.
func (w *watcher) stop() {
	w.mu.Lock()
	select {
	case <-w.stopped:
	default:
		close(w.stopped)
	}
	w.mu.Unlock()
	w.ended.Wait()
}

// follow begins the life of another process.
func (w *watcher) follow(c *connector) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.process, w.address = c, ""
	w.lives = append(w.lives, nil)
}

// sample asks once. A process that does not answer is suspended, or has just ended.
func (w *watcher) sample() {
	w.mu.Lock()
	c, address, life := w.process, w.address, len(w.lives)-1
	w.mu.Unlock()
	if c == nil {
		return
	}
	if address == "" {
		m := httpAddress.FindStringSubmatch(c.tail(1 << 20))
		if m == nil {
			return
		}
		address = m[1]
	}
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + address + "/metrics")
	if err != nil {
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return
	}
	samples := make(map[string]float64)
	for line := range strings.Lines(string(body)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			samples[name], _ = strconv.ParseFloat(value, 64)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.process != c {
		return
	}
	w.address = address
	w.lives[life] = append(w.lives[life], usage{samples["go_goroutines"], samples["process_open_fds"],
		samples["go_memstats_heap_inuse_bytes"], samples["process_resident_memory_bytes"]})
	for name, n := range samples {
		if strings.HasPrefix(name, "outboxd_reconcile_mismatches{") && n > w.mismatches[name] {
			w.mismatches[name] = n
		}
	}
}

// last is the newest sample.
func (w *watcher) last() (u usage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.lives); n > 0 && len(w.lives[n-1]) > 0 {
		u = w.lives[n-1][len(w.lives[n-1])-1]
	}
	return u
}

// maxRSS is the most memory that a sample has, in bytes.
func (w *watcher) maxRSS() (most float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, life := range w.lives {
		for _, u := range life {
			most = max(most, u.rss)
		}
	}
	return most
}

// growth compares the early with the late part of a life.
func growth(life []usage) (early, late usage, ok bool) {
	n := len(life)
	if n < shortestLife {
		return early, late, false
	}
	return quartile(life[n/10 : n/10+n/3]), quartile(life[n-n/3:]), true
}

// quartile is the lower quartile of each number, of files the least.
func quartile(samples []usage) usage {
	of := func(part int, number func(usage) float64) float64 {
		var all []float64
		for _, u := range samples {
			all = append(all, number(u))
		}
		slices.Sort(all)
		return all[part*len(all)/4]
	}
	return usage{
		goroutines: of(1, func(u usage) float64 { return u.goroutines }),
		files:      of(0, func(u usage) float64 { return u.files }),
		heap:       of(1, func(u usage) float64 { return u.heap }),
		rss:        of(1, func(u usage) float64 { return u.rss }),
	}
}

// grown says what has grown beyond its bound, "" if nothing has.
func grown(early, late usage) string {
	var what []string
	for _, m := range []struct {
		name                     string
		early, late, bound, unit float64
	}{
		{"goroutines", early.goroutines, late.goroutines, growGoroutines, 1},
		{"file descriptors", early.files, late.files, growFiles, 1},
		{"MiB of heap", early.heap, late.heap, growHeap, 1 << 20},
	} {
		if m.late > m.early+m.bound {
			what = append(what, fmt.Sprintf("%.0f %s, then %.0f: more than %.0f more", m.early/m.unit, m.name, m.late/m.unit, m.bound/m.unit))
		}
	}
	return strings.Join(what, "; ")
}

// A leak is found, one of each kind; what only goes up and down is none.
func TestGrowth(t *testing.T) {
	life := func(rate usage) (samples []usage) {
		for i := range 300 {
			n, wave := float64(i), 8*math.Sin(float64(i)/5)
			samples = append(samples, usage{40 + wave + n*rate.goroutines, 20 + wave + n*rate.files, 20<<20 + wave*(1<<20) + n*rate.heap, 0})
		}
		return samples
	}
	for says, rate := range map[string]usage{
		"":                 {},
		"goroutines":       {goroutines: 0.1},
		"file descriptors": {files: 0.1},
		"MiB of heap":      {heap: 128 << 10},
	} {
		early, late, ok := growth(life(rate))
		if what := grown(early, late); !ok || (what == "") != (says == "") || !strings.Contains(what, says) {
			t.Errorf("%+v: %q, want %q", rate, what, says)
		}
	}
	if _, _, ok := growth(life(usage{})[:shortestLife-1]); ok {
		t.Error("a life that is too short is judged")
	}
}
