package republish

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outboxd/internal/table"
)

// A run goes on where the file says, and only one that selects the same rows.
func TestState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	filter := table.Filter{Since: time.Now(), Types: []string{"a"}}
	s, err := loadState(path, filter)
	if err != nil || s.Events != 0 {
		t.Fatal(s, err)
	}
	after := table.Key{Time: 1, Serial: 2, Place: table.Place{Part: 3, Block: 4, Offset: 5}}
	if err := s.save(after, 6); err != nil {
		t.Fatal(err)
	}
	again, err := loadState(path, filter)
	if err != nil || again.After != after || again.Events != 6 {
		t.Errorf("%+v, %v", again, err)
	}
	if _, err := loadState(path, table.Filter{Types: []string{"b"}}); err == nil || !strings.Contains(err.Error(), "selected other rows") {
		t.Errorf("another selection: %v", err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadState(path, filter); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("a broken file: %v", err)
	}
	if err := again.remove(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
