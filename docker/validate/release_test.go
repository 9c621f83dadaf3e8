package validate

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
)

// makeRelease runs `make release` for this machine's platform, and returns the files.
func makeRelease(t *testing.T) map[string][]byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "release")
	cmd := exec.CommandContext(t.Context(), "make", "release", "VERSION=1.2.3", "COMMIT=abc1234", "RELEASE="+out, "PLATFORMS="+runtime.GOOS+"/"+runtime.GOARCH)
	cmd.Dir = "../.."
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make release: %v\n%s", err, text)
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]byte)
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(out, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = content
	}
	return files
}

// unpacked returns the files of a compressed archive.
func unpacked(t *testing.T, content []byte) map[string][]byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]byte)
	for r := tar.NewReader(z); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if files[header.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReleaseIsReproducibleAndWhole(t *testing.T) {
	files := makeRelease(t)
	for name, again := range makeRelease(t) {
		if !bytes.Equal(files[name], again) {
			t.Errorf("%s is not the same when it is made again", name)
		}
	}
	name := fmt.Sprintf("outboxd_1.2.3_%s_%s", runtime.GOOS, runtime.GOARCH)
	want := ""
	for _, file := range []string{name + ".cdx.json", name + ".tar.gz"} {
		want += fmt.Sprintf("%x  %s\n", sha256.Sum256(files[file]), file)
	}
	if sums := string(files["SHA256SUMS"]); sums != want {
		t.Errorf("SHA256SUMS:\n%swant\n%s", sums, want)
	}

	inside := unpacked(t, files[name+".tar.gz"])
	for _, file := range []string{"outboxd", "outboxd.yaml", "THIRD_PARTY_LICENSES", "man/outboxd.1", "man/outboxd-run.1", "completions/outboxd.bash", "completions/_outboxd", "completions/outboxd.fish"} {
		if len(inside[name+"/"+file]) == 0 {
			t.Errorf("%s is not in the archive", file)
		}
	}
	binary := inside[name+"/outboxd"]
	path := filepath.Join(t.TempDir(), "outboxd")
	if err := os.WriteFile(path, binary, 0o700); err != nil {
		t.Fatal(err)
	}
	if out := output(t, path, "version"); !strings.HasPrefix(out, "outboxd 1.2.3 commit abc1234 ") {
		t.Errorf("the binary says: %s", out)
	}
	// bash understands its completion, and it completes a command.
	bash := filepath.Join(t.TempDir(), "completion")
	if err := os.WriteFile(bash, inside[name+"/completions/outboxd.bash"], 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, "bash", "-n", bash)
	if out := output(t, path, "__complete", "ver"); !strings.HasPrefix(out, "version") {
		t.Errorf("completion of ver: %s", out)
	}

	// The bill of materials and the licences name all that is linked.
	var bom cyclonedx.BOM
	if err := cyclonedx.NewBOMDecoder(bytes.NewReader(files[name+".cdx.json"]), cyclonedx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	listed := make(map[string]string)
	for _, c := range *bom.Components {
		listed[c.Name] = c.Version
	}
	info, err := buildinfo.Read(bytes.NewReader(binary))
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Deps) < 10 {
		t.Fatalf("only %d modules are linked", len(info.Deps))
	}
	licences := string(inside[name+"/THIRD_PARTY_LICENSES"])
	for _, d := range info.Deps {
		if listed[d.Path] != d.Version {
			t.Errorf("%s %s is linked, the bill of materials has %q", d.Path, d.Version, listed[d.Path])
		}
		if !strings.Contains(licences, "\n"+d.Path+" "+d.Version+": ") {
			t.Errorf("the licence of %s is left out", d.Path)
		}
	}
	if listed["std"] != info.GoVersion {
		t.Errorf("Go %s, the bill of materials has %q", info.GoVersion, listed["std"])
	}
	for _, sentence := range []string{"Copyright (c) 2013-2021 Jack Christensen", "Copyright 2020, Travis Bischel.", "Copyright 2009 The Go Authors."} {
		if !strings.Contains(licences, sentence) {
			t.Errorf("the licences lack %q", sentence)
		}
	}
}
