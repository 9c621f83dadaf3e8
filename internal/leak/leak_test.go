package leak

import (
	"strings"
	"testing"
	"time"
)

// waiting is a goroutine that is left.
func waiting(c chan struct{}) { <-c }

func TestRunning(t *testing.T) {
	const prefix = "outboxd/internal/leak.waiting"
	if left := Running(0, prefix); left != "" {
		t.Fatalf("before: %s", left)
	}
	c := make(chan struct{})
	go waiting(c)
	time.Sleep(10 * time.Millisecond)
	if left := Running(0, "outboxd/sink.", prefix); !strings.Contains(left, "leak.waiting") {
		t.Errorf("a goroutine is not found: %q", left)
	}
	close(c)
	if left := Running(5*time.Second, prefix); left != "" {
		t.Errorf("after: %s", left)
	}
}
