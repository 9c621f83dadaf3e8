package validate

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	ociimage "github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

func TestDockerfileIsLinted(t *testing.T) {
	output(t, python(t, "hadolint"), "../Dockerfile")
	// The linter must be able to object.
	bad := filepath.Join(t.TempDir(), "Dockerfile")
	if err := os.WriteFile(bad, []byte("FROM golang:latest\nRUN cd /tmp\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), python(t, "hadolint"), bad).CombinedOutput(); err == nil {
		t.Fatalf("hadolint accepts a bad Dockerfile: %s", out)
	}
}

// The image of this machine's architecture, as `make image` makes it, built once.
var builtImage = sync.OnceValues(func() (string, error) {
	out := filepath.Join(temporary, "image")
	cmd := exec.Command("go", "run", "./image", "-arch", runtime.GOARCH, "-version", "1.2.3", "-commit", "abc1234", "-out", out)
	cmd.Dir = ".."
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make the image: %w\n%s", err, text)
	}
	return out, nil
})

func image(t *testing.T) (dir string, img v1.Image) {
	t.Helper()
	dir, err := builtImage()
	if err != nil {
		t.Fatal(err)
	}
	img, err = tarball.ImageFromPath(filepath.Join(dir, "outboxd-docker-"+runtime.GOARCH+".tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return dir, img
}

// What `make image` makes is what the Dockerfile says, so that the tests of the one
// hold for the other.
func TestImageIsTheDockerfiles(t *testing.T) {
	_, img := image(t)
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := parseLastStage(t, read(t, "Dockerfile"), map[string]string{"VERSION": "1.2.3", "COMMIT": "abc1234"})
	got := lastStage{
		user: config.Config.User, workdir: config.Config.WorkingDir, entrypoint: config.Config.Entrypoint, cmd: config.Config.Cmd,
		labels: config.Config.Labels, ports: slices.Sorted(maps.Keys(config.Config.ExposedPorts)),
	}
	for path, header := range files(t, img) {
		if header.Typeflag == tar.TypeReg {
			got.files = append(got.files, "/"+path)
		}
		if header.Uid != 0 || header.Mode&0o022 != 0 {
			t.Errorf("%s belongs to %d with mode %o: a file that another user can change", path, header.Uid, header.Mode)
		}
	}
	slices.Sort(got.files)
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Errorf("make image and the Dockerfile differ:\n%s\n%s", g, w)
	}
	if !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(got.user) {
		t.Errorf("user %q is not a number, or root", got.user)
	}
}

// The Dockerfile's Go is that of go.mod: another one may not build it.
func TestDockerfileHasTheRightGo(t *testing.T) {
	version := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(read(t, "../go.mod"))[1]
	if !strings.Contains(read(t, "Dockerfile"), "FROM --platform=$BUILDPLATFORM golang:"+version+"-") {
		t.Errorf("the Dockerfile does not build with Go %s, which go.mod asks for", version)
	}
}

// The archive for registries and its layers are whole, and made of the source alone.
func TestImageArchive(t *testing.T) {
	dir, img := image(t)
	unpacked := t.TempDir()
	output(t, "tar", "-xf", filepath.Join(dir, "outboxd-image.tar"), "-C", unpacked)
	index, err := layout.ImageIndexFromPath(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	if err := ociimage.Index(index); err != nil {
		t.Error(err)
	}
	// One image of several platforms: tools refuse to choose among several images.
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 || !manifest.Manifests[0].MediaType.IsIndex() || manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "1.2.3" {
		t.Errorf("the archive holds %+v", manifest.Manifests)
	}
	if err := ociimage.Image(img); err != nil {
		t.Error(err)
	}
	again := filepath.Join(t.TempDir(), "again")
	cmd := exec.CommandContext(t.Context(), "go", "run", "./image", "-arch", runtime.GOARCH, "-version", "1.2.3", "-commit", "abc1234", "-out", again)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"outboxd-image.tar", "outboxd-docker-" + runtime.GOARCH + ".tar"} {
		first, err1 := os.ReadFile(filepath.Join(dir, name))
		second, err2 := os.ReadFile(filepath.Join(again, name))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Errorf("%s made twice from the same source differs", name)
		}
	}
}

// The binary needs no library, the authorities are some.
func TestImageContent(t *testing.T) {
	root := imageRoot(t)
	binary, err := elf.Open(filepath.Join(root, "outboxd"))
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	for _, p := range binary.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the binary is not static: it has a segment %s", p.Type)
		}
	}
	pem, err := os.ReadFile(filepath.Join(root, "etc/ssl/certs/ca-certificates.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(pem, []byte("BEGIN CERTIFICATE")); n < 80 || !x509.NewCertPool().AppendCertsFromPEM(pem) {
		t.Errorf("%d authorities", n)
	}
}

// What Dockerfile.dockerignore leaves of the repository is enough to build.
func TestBuildContext(t *testing.T) {
	patterns, err := ignorefile.ReadAll(strings.NewReader(read(t, "Dockerfile.dockerignore")))
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	source, dir := "../..", t.TempDir()
	copied := 0
	err = filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		if d.IsDir() && (inside == ".git" || inside == "bin") {
			return fs.SkipDir
		}
		if d.IsDir() || !d.Type().IsRegular() {
			return nil
		}
		if skip, err := ignored.MatchesOrParentMatches(inside); err != nil || skip {
			return err
		}
		if strings.HasSuffix(inside, "_test.go") || strings.HasPrefix(inside, "docker/") || strings.HasPrefix(inside, "e2e/") {
			t.Errorf("%s is in the build context: a change of it builds everything again", inside)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		copied++
		target := filepath.Join(dir, inside)
		return errors.Join(os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, content, 0o644))
	})
	if err != nil {
		t.Fatal(err)
	}
	if copied < 20 {
		t.Fatalf("only %d files in the build context", copied)
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(t.TempDir(), "outboxd"), "./cmd/outboxd")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("build in the context of the Dockerfile: %v\n%s", err, out)
	}
}

// imageRoot unpacks the image.
func imageRoot(t *testing.T) string {
	t.Helper()
	_, img := image(t)
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	content := mutate.Extract(img)
	defer content.Close()
	cmd := exec.CommandContext(t.Context(), "tar", "-x", "-C", root)
	cmd.Stdin = content
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("unpack the image: %v\n%s", err, out)
	}
	return root
}

// files returns what the image holds, by path.
func files(t *testing.T, img v1.Image) map[string]*tar.Header {
	t.Helper()
	content := mutate.Extract(img)
	defer content.Close()
	all := make(map[string]*tar.Header)
	for r := tar.NewReader(content); ; {
		header, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(header.Name, "/")] = header
	}
}

// lastStage is what a Dockerfile says of the image that it makes.
type lastStage struct {
	user, workdir          string
	entrypoint, cmd, ports []string
	files                  []string
	labels                 map[string]string
}

// parseLastStage reads the instructions that our Dockerfile has, and knows no
// others.
func parseLastStage(t *testing.T, text string, args map[string]string) (s lastStage) {
	t.Helper()
	text = regexp.MustCompile(`(?m)^\s*#.*\n`).ReplaceAllString(text, "")
	text = strings.ReplaceAll(text, "\\\n", " ")
	text = text[strings.LastIndex(text, "\nFROM ")+1:]
	expand := func(s string) string { return os.Expand(s, func(name string) string { return args[name] }) }
	for line := range strings.Lines(text) {
		instruction, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest = strings.TrimSpace(rest)
		var list []string
		switch instruction {
		case "", "ARG":
		case "FROM":
			if rest != "scratch" {
				t.Fatalf("the image is made from %s: its files are not known here", rest)
			}
		case "LABEL":
			s.labels = make(map[string]string)
			for _, pair := range regexp.MustCompile(`(\S+)="([^"]*)"`).FindAllStringSubmatch(rest, -1) {
				s.labels[pair[1]] = expand(pair[2])
			}
		case "COPY":
			words := strings.Fields(rest)
			s.files = append(s.files, words[len(words)-1])
		case "WORKDIR":
			s.workdir = rest
		case "USER":
			s.user = rest
		case "EXPOSE":
			s.ports = append(s.ports, rest+"/tcp")
		case "ENTRYPOINT", "CMD":
			if err := json.Unmarshal([]byte(rest), &list); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if instruction == "CMD" {
				s.cmd = list
			} else {
				s.entrypoint = list
			}
		default:
			t.Fatalf("the test does not know %s", instruction)
		}
	}
	slices.Sort(s.files)
	return s
}
