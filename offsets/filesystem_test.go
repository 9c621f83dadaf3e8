package offsets

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A symbolic link stays one, and the position is where it leads, whether the file is
// there already or not.
func TestFileStoreFollowsLinks(t *testing.T) {
	for _, there := range []bool{true, false} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "elsewhere"), 0o700); err != nil {
			t.Fatal(err)
		}
		link, target := filepath.Join(dir, "position.json"), filepath.Join(dir, "elsewhere", "real.json")
		if err := os.Symlink("elsewhere/real.json", link); err != nil {
			t.Fatal(err)
		}
		want := Position{SystemID: "7301", Timeline: 1, Slot: "outboxd", LSN: 0x100}
		if there {
			if err := NewFileStore(target).Save(t.Context(), want); err != nil {
				t.Fatal(err)
			}
			want.LSN++
		}
		s := NewFileStore(link)
		if _, err := s.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Save(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("the link is %v now, %v", info.Mode(), err)
		}
		if got, err := NewFileStore(target).Load(t.Context()); err != nil || got == nil || *got != want {
			t.Errorf("the target holds %v, %v", got, err)
		}
	}
}

// What is no file, or far too large for a position, is refused without reading it.
func TestFileStoreTakesOnlyAFile(t *testing.T) {
	dir := t.TempDir()
	pipe, large := filepath.Join(dir, "pipe"), filepath.Join(dir, "large")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(large, []byte(strings.Repeat(" ", maxFile+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{pipe: "not a regular file", large: "larger than"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := NewFileStore(path).Load(ctx)
		cancel()
		if !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A file system that hangs keeps nobody waiting longer than the context.
func TestFileStoreThatHangs(t *testing.T) {
	s := NewFileStore(filepath.Join(t.TempDir(), "position.json"))
	hang, returned := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := s.bounded(ctx, func() error { <-hang; close(returned); return nil })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the call that hangs: %v", err)
	}
	if _, err := s.Load(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beside it: %v", err)
	}
	close(hang)
	<-returned
	if p, err := s.Load(t.Context()); p != nil || err != nil {
		t.Errorf("after it: %v, %v", p, err)
	}
}

// What a process that was killed while it saved has left behind is removed; nothing
// else is.
func TestFileStoreRemovesLeftovers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "position.json")
	old := time.Now().Add(-2 * leftover)
	for name, at := range map[string]time.Time{".123": old, ".456": time.Now(), ".bak": old, ".123.bak": old} {
		if err := os.WriteFile(path+name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path+name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	s := NewFileStore(path)
	if err := s.Save(t.Context(), Position{SystemID: "7301", Timeline: 1, Slot: "outboxd", LSN: 0x100}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"": true, ".123": false, ".456": true, ".bak": true, ".123.bak": true} {
		if _, err := os.Stat(path + name); (err == nil) != want {
			t.Errorf("position.json%s: %v", name, err)
		}
	}
}

// After a downgrade a position that says more than is known is not taken for less.
func TestPositionOfALaterVersion(t *testing.T) {
	for version, ok := range map[string]bool{``: true, `"version":1,`: true, `"version":2,`: true, `"version":3,`: false, `"version":-1,`: false} {
		_, err := Decode([]byte(`{` + version + `"system_id":"7301","timeline":1,"slot":"outboxd","lsn":"0/100"}`))
		if (err == nil) != ok {
			t.Errorf("%s: %v", version, err)
		}
	}
}
