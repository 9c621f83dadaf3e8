// Command release makes what is published of a version: for each platform an archive
// with the static binary, the manual pages, shell completions and the licences of all
// that is linked into it, and a bill of materials (CycloneDX); and their checksums.
//
//	go run ./release -version 1.0.0 -commit abc1234 -out ../bin/release
//
// The same source and Go version give the same bytes.
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"outboxd/docker/internal/build"
)

func main() {
	var r release
	flag.StringVar(&r.version, "version", "dev", "version that is released")
	flag.StringVar(&r.commit, "commit", "unknown", "commit that the binary carries")
	flag.StringVar(&r.source, "source", "..", "root of the source tree")
	flag.StringVar(&r.out, "out", "../bin/release", "directory to write to; what is in it is replaced")
	platforms := flag.String("platforms", "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64", "operating systems and architectures, with commas")
	flag.Parse()
	if err := r.run(strings.Split(*platforms, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release is one run of the command.
type release struct {
	version, commit string
	source, out     string
}

func (r *release) run(platforms []string) error {
	common, err := r.common()
	if err != nil {
		return err
	}
	files := make(map[string][]byte)
	for _, platform := range platforms {
		system, architecture, ok := strings.Cut(platform, "/")
		if !ok {
			return fmt.Errorf("platform %q is not SYSTEM/ARCHITECTURE", platform)
		}
		binary, err := build.Binary(r.source, r.version, r.commit, system, architecture)
		if err != nil {
			return fmt.Errorf("build for %s: %w", platform, err)
		}
		modules, err := r.modules(binary)
		if err != nil {
			return fmt.Errorf("list what is linked for %s: %w", platform, err)
		}
		name := fmt.Sprintf("outboxd_%s_%s_%s", r.version, system, architecture)
		content := map[string]build.File{
			name + "/outboxd":              {Content: binary, Mode: 0o755},
			name + "/THIRD_PARTY_LICENSES": {Content: licences(modules), Mode: 0o644},
		}
		for path, file := range common {
			content[name+"/"+path] = file
		}
		if files[name+".tar.gz"], err = archive(content); err != nil {
			return err
		}
		if files[name+".cdx.json"], err = r.bill(modules); err != nil {
			return fmt.Errorf("write the bill of materials for %s: %w", platform, err)
		}
	}
	return r.write(files)
}

// common returns what the archives of all platforms hold.
func (r *release) common() (map[string]build.File, error) {
	example, err := os.ReadFile(filepath.Join(r.source, "docker/outboxd.yaml"))
	if err != nil {
		return nil, err
	}
	files := map[string]build.File{"outboxd.yaml": {Content: example, Mode: 0o644}}
	dir, err := os.MkdirTemp("", "outboxd-release-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// With the binaries' own flags, most of it is compiled only once.
	tool := filepath.Join(dir, "outboxd")
	_, err = build.Go(r.source, []string{"CGO_ENABLED=0"}, "build", "-trimpath", "-buildvcs=false", "-tags", "man",
		"-ldflags", "-s -w -X main.version="+r.version, "-o", tool, "./cmd/outboxd")
	if err != nil {
		return nil, fmt.Errorf("build what writes the manual pages: %w", err)
	}
	for shell, path := range map[string]string{"bash": "completions/outboxd.bash", "zsh": "completions/_outboxd", "fish": "completions/outboxd.fish"} {
		text, err := exec.Command(tool, "completion", shell).Output()
		if err != nil {
			return nil, fmt.Errorf("write the completion for %s: %w", shell, err)
		}
		files[path] = build.File{Content: text, Mode: 0o644}
	}
	if text, err := exec.Command(tool, "man", dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("write the manual pages: %w\n%s", err, text)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil {
		return nil, err
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			return nil, err
		}
		files["man/"+filepath.Base(page)] = build.File{Content: text, Mode: 0o644}
	}
	return files, nil
}

// archive returns a compressed archive in which nothing depends on the time.
func archive(files map[string]build.File) ([]byte, error) {
	content, err := build.Tar(files)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// write replaces what is in the output directory by the files and their checksums.
func (r *release) write(files map[string][]byte) error {
	if err := os.RemoveAll(r.out); err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	var sums []string
	for name, content := range files {
		sums = append(sums, fmt.Sprintf("%x  %s\n", sha256.Sum256(content), name))
		if err := os.WriteFile(filepath.Join(r.out, name), content, 0o644); err != nil {
			return err
		}
		fmt.Println(filepath.Join(r.out, name))
	}
	slices.SortFunc(sums, func(a, b string) int { return strings.Compare(a[66:], b[66:]) })
	return os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), []byte(strings.Join(sums, "")), 0o644)
}
