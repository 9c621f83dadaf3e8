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
	lines []string
}

// maxLines bounds a history that something has made endless.
const maxLines = 20_000

func (h *history) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.lines) < maxLines {
		h.lines = append(h.lines, fmt.Sprintf("%12.6f  ", time.Since(h.began).Seconds())+fmt.Sprintf(format, args...))
	}
}

func (h *history) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.lines, "\n")
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
