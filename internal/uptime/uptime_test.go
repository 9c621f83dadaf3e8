package uptime

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAt(t *testing.T) {
	now := time.Now()
	at := At(Of(now))
	if at.Sub(now) != 0 {
		t.Errorf("%s became %s", now, at)
	}
	if !strings.Contains(at.String(), " m=") {
		t.Errorf("%s has no reading of the clock that nobody sets", at)
	}
}

// A time that was kept as nanoseconds since 1970 is compared with another one only by the
// host's clock, which may be set between the two. Where that is meant, or not compared,
// the file is listed.
func TestNobodyKeepsTheTimeOfDay(t *testing.T) {
	allowed := []string{
		"cmd/outboxd/man.go",              // a constant
		"internal/trace/encode.go",        // for others
		"internal/testbed/certificate.go", // a number
	}
	lost := regexp.MustCompile(`\.UnixNano\(\)|time\.Unix\(0, `)
	root := "../.."
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if d.IsDir() && (name == "e2e" || name == "docker" || strings.HasPrefix(d.Name(), ".") && name != ".") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || slices.Contains(allowed, name) {
			return nil
		}
		files++
		text, err := os.ReadFile(path)
		if at := lost.FindIndex(text); at != nil {
			t.Errorf("%s:%d: use uptime.Of and uptime.At", name, 1+strings.Count(string(text[:at[0]]), "\n"))
		}
		return err
	})
	if err != nil || files < 100 {
		t.Errorf("%d files were read: %v", files, err)
	}
}
