package offsets

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var somePosition = Position{SystemID: "7301234567890123456", Timeline: 2, Slot: "outboxd", LSN: 0x1_507C6000}

func save(t *testing.T, s *FileStore, p Position) {
	t.Helper()
	if err := s.Save(context.Background(), p); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, s *FileStore) Position {
	t.Helper()
	p, err := s.Load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if p == nil {
		t.Fatal("nothing is stored")
	}
	return *p
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestFileStore(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "position.json")
	s := NewFileStore(path)
	if p, err := s.Load(context.Background()); p != nil || err != nil {
		t.Fatalf("loaded %v, %v from a file that is not there", p, err)
	}
	save(t, s, somePosition)
	newer := somePosition
	newer.LSN += 8
	save(t, s, newer)
	if got := load(t, NewFileStore(path)); got != newer {
		t.Errorf("loaded %+v, want %+v", got, newer)
	}
	if names := files(t, dir); len(names) != 1 {
		t.Errorf("the folder holds %q, want the position alone", names)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The format is for later versions, and for an operator's eyes.
	if want := `{"version":1,"system_id":"7301234567890123456","timeline":2,"slot":"outboxd","lsn":"1/507C6008"}` + "\n"; string(data) != want {
		t.Errorf("the file is\n%s, want\n%s", data, want)
	}
}

// Inside a transaction the position has two members more.
func TestPositionInsideTransaction(t *testing.T) {
	p := somePosition
	p.Inside = Event{CommitLSN: p.LSN + 0x100, Number: 4096}
	data := p.Encode()
	if want := `{"version":1,"system_id":"7301234567890123456","timeline":2,"slot":"outboxd","lsn":"1/507C6000","commit_lsn":"1/507C6100","number":4096}`; string(data) != want {
		t.Errorf("encoded as\n%s, want\n%s", data, want)
	}
	if got, err := Decode(data); got != p || err != nil {
		t.Errorf("decoded %+v, %v; want %+v", got, err, p)
	}
}

// What is held back by a rewind is in the position as well.
func TestPositionWithPast(t *testing.T) {
	p := somePosition
	p.Past[0], p.Past[1] = Mark{p.LSN - 0x100, 1785500000123}, Mark{p.LSN, 1785500060456}
	data := p.Encode()
	if want := `{"version":1,"system_id":"7301234567890123456","timeline":2,"slot":"outboxd","lsn":"1/507C6000","past":[{"lsn":"1/507C5F00","at":1785500000123},{"lsn":"1/507C6000","at":1785500060456}]}`; string(data) != want {
		t.Errorf("encoded as\n%s, want\n%s", data, want)
	}
	if got, err := Decode(data); got != p || err != nil {
		t.Errorf("decoded %+v, %v; want %+v", got, err, p)
	}
}

// The mark of a backfill is refused by programs that would take it for a position.
func TestPositionOfABackfill(t *testing.T) {
	p := somePosition
	p.Backfill = true
	data := p.Encode()
	if want := `{"version":2,"system_id":"7301234567890123456","timeline":2,"slot":"outboxd","lsn":"1/507C6000","backfill":true}`; string(data) != want {
		t.Errorf("encoded as\n%s, want\n%s", data, want)
	}
	if got, err := Decode(data); got != p || err != nil {
		t.Errorf("decoded %+v, %v; want %+v", got, err, p)
	}
}

// A crash before the rename leaves the old position, and beside it a file of any
// content; neither the next load nor the next save minds it.
func TestFileStoreSurvivesACrash(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "position.json")
	s := NewFileStore(path)
	save(t, s, somePosition)
	leftover := filepath.Join(dir, "position.json.1234567")
	if err := os.WriteFile(leftover, []byte(`{"system_id":"73`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := load(t, s); got != somePosition {
		t.Errorf("loaded %+v, want %+v", got, somePosition)
	}
	newer := somePosition
	newer.LSN++
	save(t, s, newer)
	if got := load(t, s); got != newer {
		t.Errorf("loaded %+v, want %+v", got, newer)
	}
}

func TestFileStoreRefusesWhatIsNotAPosition(t *testing.T) {
	const whole = `{"system_id":"7301","timeline":2,"slot":"outboxd","lsn":"1/507C6008"}`
	contents := map[string]string{
		"empty":               "",
		"zeros":               strings.Repeat("\x00", 100),
		"half":                whole[:len(whole)/2],
		"two":                 whole + whole,
		"null":                "null",
		"other JSON":          `{"offset": 12}`,
		"no system":           `{"timeline":2,"slot":"outboxd","lsn":"1/507C6008"}`,
		"no timeline":         `{"system_id":"7301","slot":"outboxd","lsn":"1/507C6008"}`,
		"negative timeline":   `{"system_id":"7301","timeline":-1,"slot":"outboxd","lsn":"1/507C6008"}`,
		"no slot":             `{"system_id":"7301","timeline":2,"lsn":"1/507C6008"}`,
		"no position":         `{"system_id":"7301","timeline":2,"slot":"outboxd"}`,
		"position 0":          `{"system_id":"7301","timeline":2,"slot":"outboxd","lsn":"0/0"}`,
		"a number":            `{"system_id":"7301","timeline":2,"slot":"outboxd","lsn":22}`,
		"half a position":     `{"system_id":"7301","timeline":2,"slot":"outboxd","lsn":"1"}`,
		"trailing text":       `{"system_id":"7301","timeline":2,"slot":"outboxd","lsn":"1/507C 6008"}`,
		"half an event":       `{"system_id":"7301","timeline":2,"slot":"outboxd","lsn":"1/5","commit_lsn":"1/6"}`,
		"no commit":           `{"system_id":"7301","timeline":2,"slot":"outboxd","lsn":"1/5","number":3}`,
		"an older commit":     `{"system_id":"7301","timeline":2,"slot":"outboxd","lsn":"1/5","commit_lsn":"1/4","number":3}`,
		"a past to come":      `{"system_id":"7301","timeline":2,"slot":"outboxd","lsn":"1/5","past":[{"lsn":"1/6","at":1}]}`,
		"a past in disorder":  `{"system_id":"7301","timeline":2,"slot":"outboxd","lsn":"1/5","past":[{"lsn":"1/3","at":1},{"lsn":"1/3","at":2}]}`,
		"a past of nothing":   `{"system_id":"7301","timeline":2,"slot":"outboxd","lsn":"1/5","past":[{"at":1}]}`,
		"a past without time": `{"system_id":"7301","timeline":2,"slot":"outboxd","lsn":"1/5","past":[{"lsn":"1/3"}]}`,
		"too long a past":     `{"system_id":"7301","timeline":2,"slot":"outboxd","lsn":"1/F","past":[{"lsn":"1/1","at":1},{"lsn":"1/2","at":1},{"lsn":"1/3","at":1},{"lsn":"1/4","at":1},{"lsn":"1/5","at":1},{"lsn":"1/6","at":1},{"lsn":"1/7","at":1},{"lsn":"1/8","at":1},{"lsn":"1/9","at":1}]}`,
		"too large":           `{"system_id":"7301","timeline":2,"slot":"outboxd","lsn":"1FFFFFFFF/507C6008"}`,
	}
	for name, content := range contents {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "position.json")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			p, err := NewFileStore(path).Load(context.Background())
			if err == nil {
				t.Fatalf("loaded %+v", p)
			}
			if !strings.Contains(err.Error(), path) {
				t.Errorf("the error does not name the file: %v", err)
			}
		})
	}
}

func TestFileStoreErrors(t *testing.T) {
	ctx := context.Background()
	t.Run("no folder", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "missing", "position.json")
		s := NewFileStore(path)
		// Nothing was ever stored there; the first save finds out.
		if p, err := s.Load(ctx); p != nil || err != nil {
			t.Errorf("loaded %v, %v", p, err)
		}
		if err := s.Save(ctx, somePosition); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("saved into a folder that is not there: %v", err)
		}
	})
	t.Run("a folder in its place", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "position.json")
		if err := os.MkdirAll(filepath.Join(path, "occupied"), 0o700); err != nil {
			t.Fatal(err)
		}
		s := NewFileStore(path)
		if p, err := s.Load(ctx); err == nil {
			t.Errorf("loaded %v from a folder", p)
		}
		if err := s.Save(ctx, somePosition); err == nil {
			t.Error("saved over a folder")
		}
		if names := files(t, dir); len(names) != 1 {
			t.Errorf("a failed save left %q", names)
		}
	})
}

// Neither does a process overwrite it that has found no file: it was suspended before its
// first save, and replaced. Found by the simulator.
func TestFileStoreDoesNotOverwriteTheFirst(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "position.json")
	first, second := NewFileStore(path), NewFileStore(path)
	for _, s := range []*FileStore{first, second} {
		if p, err := s.Load(ctx); p != nil || err != nil {
			t.Fatal(p, err)
		}
	}
	save(t, second, somePosition)
	older := somePosition
	older.LSN -= 50
	if err := first.Save(ctx, older); !errors.Is(err, ErrStoreTaken) {
		t.Errorf("saved over what another has stored: %v", err)
	}
	if got := load(t, second); got != somePosition {
		t.Errorf("loaded %+v, want %+v", got, somePosition)
	}
}

// Two processes have the same file. One was stopped and replaced: what it still
// wants to save is older than what the other has saved.
func TestFileStoreDoesNotOverwriteAnother(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "position.json")
	first, second := NewFileStore(path), NewFileStore(path)
	save(t, first, somePosition)
	load(t, second)
	newer := somePosition
	newer.LSN += 100
	save(t, second, newer)
	older := somePosition
	older.LSN += 50
	for range 2 {
		if err := first.Save(ctx, older); !errors.Is(err, ErrStoreTaken) || !strings.Contains(err.Error(), path) {
			t.Errorf("saved over what another has stored: %v", err)
		}
	}
	if got := load(t, second); got != newer {
		t.Errorf("loaded %+v, want %+v", got, newer)
	}
	// Who has seen what is there may go on.
	load(t, first)
	newer.LSN++
	save(t, first, newer)
}
