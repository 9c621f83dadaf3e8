// Package build compiles outboxd, and packs files, so that the same source is the
// same bytes: nothing in them depends on the time, the user or the machine.
package build

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// Binary returns the static binary for an operating system and an architecture, as
// the Dockerfile builds it. source is the root of the source tree.
func Binary(source, version, commit, system, architecture string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "outboxd-build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "outboxd")
	_, err = Go(source, []string{"CGO_ENABLED=0", "GOOS=" + system, "GOARCH=" + architecture},
		"build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X main.version="+version+" -X main.commit="+commit, "-o", out, "./cmd/outboxd")
	if err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// Go runs the go tool that runs this program, in a directory and with additions to
// the environment, and returns what it prints.
func Go(dir string, env []string, args ...string) ([]byte, error) {
	cmd := exec.Command(filepath.Join(runtime.GOROOT(), "bin", "go"), args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", args[0], err, stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// File is the content of a file and its permissions, or a directory.
type File struct {
	Content []byte
	Mode    fs.FileMode
}

// Tar returns an archive of the files by their paths, with the directories above
// them, owned by root and dated 1970.
func Tar(files map[string]File) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range withParents(files) {
		f, ok := files[name]
		header := &tar.Header{Name: name, Mode: int64(f.Mode.Perm()), Size: int64(len(f.Content)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if !ok || f.Mode.IsDir() {
			header.Name, header.Mode, header.Typeflag = name+"/", 0o755, tar.TypeDir
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// withParents returns the paths and all directories above them, parents first.
func withParents(files map[string]File) []string {
	all := make(map[string]bool)
	for name := range files {
		for ; name != "."; name = path.Dir(name) {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}
