package validate

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// systemdAnalyze returns the machine's own, else that of Debian's package, unpacked into
// the cache and not installed.
func systemdAnalyze(t *testing.T) (path string, env []string) {
	t.Helper()
	if path, err := exec.LookPath("systemd-analyze"); err == nil {
		return path, nil
	}
	dir := cachedTool(t, "docker-check-systemd", func(dir string) error {
		return command("sh", "-c", fmt.Sprintf(`cd %q && (apt-get download -qq systemd || (apt-get update -qq && apt-get download -qq systemd)) && dpkg-deb -x systemd_*.deb . && rm *.deb`, dir))
	})
	libraries, err := filepath.Glob(filepath.Join(dir, "usr/lib/*-linux-gnu/systemd"))
	if err != nil || len(libraries) != 1 {
		t.Fatalf("no libraries in %s: %v", dir, err)
	}
	return filepath.Join(dir, "usr/bin/systemd-analyze"), []string{"LD_LIBRARY_PATH=" + libraries[0]}
}

// The unit is one that systemd takes, shuts outboxd in, and agrees with what the program
// does: exit codes, the time a stop takes, and the file that it is given.
func TestSystemdUnit(t *testing.T) {
	unit := read(t, "systemd/outboxd.service")
	// Programs that the unit names need not be on this machine.
	dir := t.TempDir()
	path := filepath.Join(dir, "outboxd.service")
	here := regexp.MustCompile(`=/usr/local/bin/outboxd|=/bin/kill`).ReplaceAllString(unit, "=/bin/sh")
	if err := os.WriteFile(path, []byte(here), 0o644); err != nil {
		t.Fatal(err)
	}
	analyze, env := systemdAnalyze(t)
	for _, args := range [][]string{
		{"verify", "--man=no", "--recursive-errors=no", path},
		{"security", "--offline=true", "--threshold=20", "--no-pager", path}, // of 100
	} {
		cmd := exec.CommandContext(t.Context(), analyze, args...)
		cmd.Env = append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
		}
	}
	for _, want := range []string{"Type=notify\n", "RestartPreventExitStatus=2 3\n", "TimeoutStopSec=40\n", "ExecReload=/bin/kill -HUP $MAINPID\n", "SystemCallFilter=@system-service\n"} {
		if !strings.Contains(unit, want) {
			t.Errorf("the unit lacks %q", want)
		}
	}
}
