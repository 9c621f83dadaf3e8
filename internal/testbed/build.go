package testbed

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// BuildOutboxd builds the program under test into a file, with the requirements of its
// own module, whichever module asks. flags are further ones of go build.
func BuildOutboxd(ctx context.Context, file string, flags ...string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return fmt.Errorf("build outboxd: %w", err)
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "outboxd").Output()
	if err != nil {
		return fmt.Errorf("find the module of outboxd: %w", err)
	}
	build := exec.CommandContext(ctx, "go", append(append([]string{"build"}, flags...), "-o", file, "./cmd/outboxd")...)
	build.Dir = strings.TrimSpace(string(root))
	if !slices.Contains(flags, "-race") { // which needs cgo; what is published does without
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build outboxd: %w\n%s", err, out)
	}
	return nil
}
