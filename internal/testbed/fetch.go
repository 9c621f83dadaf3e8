package testbed

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// KafkaVersion is the Kafka release that [StartKafka] runs.
const KafkaVersion = "4.3.1"

// RegistryVersion is the Apicurio release that [StartRegistry] runs.
const RegistryVersion = "3.0.9"

// avroToolsVersion is the Apache Avro release that [ReadAvro] runs.
const avroToolsVersion = "1.12.0"

// DebeziumVersion is the release of the connector that [StartConnect]'s workers
// have.
const DebeziumVersion = "3.7.0.Final"

// postgresBuilds holds the newest build of each major version.
var postgresBuilds = map[string]string{
	"13": "13.23.0",
	"14": "14.24.0",
	"15": "15.19.0",
	"16": "16.15.0",
	"17": "17.11.0",
	"18": "18.6.0",
}

// CacheDir returns the directory where fetched servers are kept: the value of
// OUTBOXD_CACHE if set, /var/cache/outboxd for root (whose home the user that
// runs PostgreSQL cannot enter), else outboxd in the user's cache directory.
// It may be deleted at any time when no server runs.
func CacheDir() string {
	if dir := os.Getenv("OUTBOXD_CACHE"); dir != "" {
		if abs, err := filepath.Abs(dir); err == nil {
			return abs
		}
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/cache/outboxd"
	}
	if dir, err := os.UserCacheDir(); err == nil {
		return filepath.Join(dir, "outboxd")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("outboxd-cache-%d", os.Getuid()))
}

// Fetch makes what the named servers need present, so that later starts need
// no network: "postgres:13" to "postgres:18" ("postgres" is the default
// version), "kafka", "debezium" (with Kafka Connect), "registry", "avro-tools" and
// "examples" (what the Java of the manual is compiled against).
// What is there already costs nothing. An
// error for a tool that is missing names the command that installs it; all
// names are tried, and all errors returned.
func Fetch(ctx context.Context, what ...string) error {
	var errs []error
	for _, w := range what {
		name, version, _ := strings.Cut(w, ":")
		var err error
		if fetch := javaParts[w]; name == "postgres" {
			_, err = postgresBin(ctx, version)
		} else if fetch == nil {
			err = errors.New("unknown name; use postgres:13 to postgres:18, kafka, debezium, registry, avro-tools or examples")
		} else if _, err = javaPath(); err == nil {
			_, err = fetch(ctx)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("fetch %s: %w", w, err))
		}
	}
	return errors.Join(errs...)
}

// postgresBin returns the directory of initdb and postgres, the machine's own
// packages first.
func postgresBin(ctx context.Context, major string) (string, error) {
	if major == "" {
		major = defaultPostgres
	}
	build, ok := postgresBuilds[major]
	if !ok {
		return "", fmt.Errorf("PostgreSQL %q is not known: use a major version from 13 to 18", major)
	}
	system := filepath.Join("/usr/lib/postgresql", major, "bin")
	if isFile(filepath.Join(system, "initdb")) && isFile(filepath.Join(system, "postgres")) {
		return system, nil
	}
	platform, ok := map[string]string{"amd64": "amd64", "arm64": "arm64v8"}[runtime.GOARCH]
	if !ok {
		return "", fmt.Errorf("no PostgreSQL build for %s: install it, apt-get install postgresql-%s", runtime.GOARCH, major)
	}
	dir, err := cached(ctx, "postgresql-"+build, func(dir string) error {
		if err := need("tar", "tar"); err != nil {
			return err
		}
		if err := need("xz", "xz-utils"); err != nil {
			return err
		}
		artifact := "embedded-postgres-binaries-linux-" + platform
		if err := copyArtifact(ctx, dir, emptyPOM, "io.zonky.test.postgres:"+artifact+":"+build); err != nil {
			return err
		}
		jar := filepath.Join(dir, artifact+"-"+build+".jar")
		txz := filepath.Join(dir, "postgres.txz")
		if err := extractOne(jar, ".txz", txz); err != nil {
			return err
		}
		if err := run(ctx, exec.CommandContext(ctx, "tar", "-xJf", txz, "--no-same-owner", "-C", dir)); err != nil {
			return err
		}
		return errors.Join(os.Remove(jar), os.Remove(txz))
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "bin"), nil
}

// need reports a missing program together with the command that installs it.
func need(program, debianPackage string) error {
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("%s is missing: apt-get install %s", program, debianPackage)
	}
	return nil
}

// cached returns the directory name in the cache, filling it first when it is
// not there. It is filled under another name and then renamed, so a directory
// that exists is whole. One lock serves the whole cache, because two Mavens
// at work in one local repository can damage each other's downloads.
func cached(ctx context.Context, name string, fill func(dir string) error) (string, error) {
	final := filepath.Join(CacheDir(), name)
	if isDir(final) {
		return final, nil
	}
	if err := os.MkdirAll(CacheDir(), 0o755); err != nil {
		return "", fmt.Errorf("make the cache (OUTBOXD_CACHE names another place): %w", err)
	}
	unlock, err := lockFile(ctx, filepath.Join(CacheDir(), "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if isDir(final) {
		return final, nil
	}
	// What an interrupted fetch left behind: nobody else is at work here now.
	leftovers, _ := filepath.Glob(filepath.Join(CacheDir(), "partial-*"))
	for _, dir := range leftovers {
		_ = os.RemoveAll(dir)
	}
	dir, err := os.MkdirTemp(CacheDir(), "partial-*")
	if err != nil {
		return "", fmt.Errorf("make a directory in the cache: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := fill(dir); err != nil {
		return "", err
	}
	if err := makeReadable(dir); err != nil {
		return "", fmt.Errorf("open %s to all users: %w", dir, err)
	}
	if err := os.Rename(dir, final); err != nil {
		return "", fmt.Errorf("put %s in its place: %w", name, err)
	}
	return final, nil
}

// lockFile takes an exclusive lock that ends with the process at the latest.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("wait for %s, held by another fetch: %w", path, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// makeReadable lets every user read a tree: PostgreSQL may run as another one.
func makeReadable(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		mode := fi.Mode().Perm() | 0o444
		if d.IsDir() || mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}

// extractOne writes the one file of a zip archive whose name ends in suffix to target.
func extractOne(archive, suffix, target string) error {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return fmt.Errorf("open %s: %w", archive, err)
	}
	defer z.Close()
	for _, f := range z.File {
		if !strings.HasSuffix(f.Name, suffix) {
			continue
		}
		in, err := f.Open()
		if err != nil {
			return fmt.Errorf("read %s: %w", f.Name, err)
		}
		defer in.Close()
		out, err := os.Create(target)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		if err := errors.Join(err, out.Close()); err != nil {
			return fmt.Errorf("unpack %s: %w", f.Name, err)
		}
		return nil
	}
	return fmt.Errorf("unpack %s: it holds no *%s", archive, suffix)
}

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}
