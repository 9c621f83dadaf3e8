// Command image makes the container image without a container engine: the same
// files and settings as the Dockerfile, for several platforms, byte for byte the
// same from the same source.
//
//	go run ./image -version 1.0.0 -commit abc1234 -out ../bin
//
// writes outboxd-image.tar, an OCI archive with all platforms (skopeo, podman,
// crane, containerd), and outboxd-docker-ARCH.tar for each (docker load).
package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"

	"outboxd/docker/internal/build"
)

func main() {
	var b images
	flag.StringVar(&b.version, "version", "dev", "version that the binary and the labels carry")
	flag.StringVar(&b.commit, "commit", "unknown", "commit that the binary and the labels carry")
	flag.StringVar(&b.source, "source", "..", "root of the source tree")
	flag.StringVar(&b.out, "out", "../bin", "directory to write to")
	architectures := flag.String("arch", "amd64,arm64", "architectures, with commas")
	flag.Parse()
	if err := b.run(strings.Split(*architectures, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// images is one run of the command.
type images struct {
	version, commit string
	source, out     string
}

func (b *images) run(architectures []string) error {
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range architectures {
		img, err := b.image(arch)
		if err != nil {
			return fmt.Errorf("make the image for %s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: arch},
		}})
		tag, err := name.NewTag("outboxd:" + b.version)
		if err != nil {
			return err
		}
		file := filepath.Join(b.out, "outboxd-docker-"+arch+".tar")
		if err := tarball.WriteToFile(file, tag, img); err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
		fmt.Println(file)
	}
	file := filepath.Join(b.out, "outboxd-image.tar")
	// One image of several platforms, and not several images.
	archive := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{Add: index, Descriptor: v1.Descriptor{
		// The tag, and what containerd calls the image.
		Annotations: map[string]string{"org.opencontainers.image.ref.name": b.version, "io.containerd.image.name": "docker.io/library/outboxd:" + b.version},
	}})
	if err := writeArchive(archive, file); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	fmt.Println(file)
	return nil
}

// image is the Dockerfile's last stage.
func (b *images) image(arch string) (v1.Image, error) {
	binary, err := build.Binary(b.source, b.version, b.commit, "linux", arch)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		OS:           "linux",
		Architecture: arch,
		Created:      v1.Time{Time: time.Unix(0, 0).UTC()}, // no time of the build: the same source is the same image
		RootFS:       v1.RootFS{Type: "layers"},
		Config: v1.Config{
			User:         "65532:65532",
			WorkingDir:   "/etc/outboxd",
			Entrypoint:   []string{"/outboxd"},
			Cmd:          []string{"run"},
			ExposedPorts: map[string]struct{}{"9188/tcp": {}},
			Labels: map[string]string{
				"org.opencontainers.image.title":       "outboxd",
				"org.opencontainers.image.description": "Delivers a PostgreSQL outbox table to Kafka by logical replication",
				"org.opencontainers.image.version":     b.version,
				"org.opencontainers.image.revision":    b.commit,
			},
		},
	})
	if err != nil {
		return nil, err
	}
	// The authorities change less often than the binary: a layer of their own.
	for _, content := range []map[string]build.File{
		{"etc/ssl/certs/ca-certificates.crt": {Content: authorities(), Mode: 0o644}, "etc/outboxd": {Mode: fs.ModeDir | 0o755}},
		{"outboxd": {Content: binary, Mode: 0o755}},
	} {
		layer, err := layerOf(content)
		if err != nil {
			return nil, err
		}
		if img, err = mutate.Append(img, mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{CreatedBy: "docker/image"}}); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// authorities are Mozilla's, PEM. The building machine's own are not taken: an
// authority that only its owner trusts has no place in an image for others.
func authorities() []byte {
	var b bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil { // a PEM file cannot carry one
			_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})
		}
	}
	return b.Bytes()
}

// layerOf makes a layer in which nothing depends on the time or the user.
func layerOf(files map[string]build.File) (v1.Layer, error) {
	content, err := build.Tar(files)
	if err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
}

// writeArchive writes an index as an OCI layout in a tar file.
func writeArchive(index v1.ImageIndex, file string) error {
	dir, err := os.MkdirTemp("", "outboxd-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if _, err := layout.Write(dir, index); err != nil {
		return err
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: inside, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	return errors.Join(err, w.Close(), out.Close())
}
