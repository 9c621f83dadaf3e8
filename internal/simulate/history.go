package simulate

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// history is what happened in a seed, on both sides, with the simulated time.
type history struct {
	began time.Time
	mu    sync.Mutex
	lines []line
}

// line is written out only when somebody reads the history, which few seeds need: what
// it says must not change.
type line struct {
	at     time.Duration
	format string
	args   []any
}

// maxLines bounds a history that something has made endless.
const maxLines = 20_000

func (h *history) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.lines) < maxLines {
		h.lines = append(h.lines, line{time.Since(h.began), format, args})
	}
}

func (h *history) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b strings.Builder
	for _, l := range h.lines {
		fmt.Fprintf(&b, "%12.6f  ", l.at.Seconds())
		fmt.Fprintf(&b, l.format, l.args...)
		b.WriteByte('\n')
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// logWriter puts a process's log into the history.
type logWriter struct {
	h    *history
	name string
}

func (l logWriter) Write(b []byte) (int, error) {
	l.h.note("%s: %s", l.name, strings.TrimSpace(string(b)))
	return len(b), nil
}
