package testbed

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const tempPrefix = "outboxd-testbed-"

// serverDir makes the directory of a server, dir if named. Only a temporary
// one is to be removed at the end.
func serverDir(dir, kind string) (path string, temporary bool, err error) {
	if dir != "" {
		dir, err = filepath.Abs(dir)
		if err == nil {
			err = os.MkdirAll(dir, 0o755)
		}
		if err != nil {
			return "", false, fmt.Errorf("make directory: %w", err)
		}
		return dir, false, nil
	}
	removeAbandoned()
	path, err = os.MkdirTemp("", fmt.Sprintf("%s%s-%d-*", tempPrefix, kind, os.Getpid()))
	if err == nil {
		err = os.Chmod(path, 0o755)
	}
	if err != nil {
		return "", false, fmt.Errorf("make temporary directory: %w", err)
	}
	return path, true, nil
}

// removeAbandoned removes directories whose test binary was killed before it
// could. Errors do not matter: the next start tries again.
func removeAbandoned() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), tempPrefix+"*"))
	for _, dir := range dirs {
		var pid int
		parts := strings.Split(strings.TrimPrefix(filepath.Base(dir), tempPrefix), "-")
		if len(parts) != 3 {
			continue
		}
		if _, err := fmt.Sscan(parts[1], &pid); err == nil && !alive(pid) {
			_ = os.RemoveAll(dir)
		}
	}
}
