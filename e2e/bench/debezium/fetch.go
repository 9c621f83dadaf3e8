package debezium

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"outboxd/internal/testbed"
)

// Versions of what runs: the newest Debezium 3.7, and Kafka Connect of the
// Kafka that package testbed runs.
const (
	Version      = "3.7.0.Final"
	KafkaVersion = testbed.KafkaVersion
)

const copyDependencies = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"

const pom = `<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>outboxd</groupId><artifactId>debezium</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>io.debezium</groupId><artifactId>debezium-connector-postgres</artifactId><version>` + Version + `</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId><version>` + KafkaVersion + `</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version></dependency>
  </dependencies>
</project>
`

// Fetch makes Debezium and Kafka Connect present in testbed.CacheDir, so that
// later starts need no network. What is there already costs nothing.
func Fetch(ctx context.Context) error {
	_, err := libraries(ctx)
	return err
}

// libraries returns the directory with all jars. It is filled under another
// name and then renamed, so a directory that exists is whole; package testbed
// fills the same cache under the same lock and by the same rules.
func libraries(ctx context.Context) (string, error) {
	final := filepath.Join(testbed.CacheDir(), "debezium-"+Version+"-connect-"+KafkaVersion)
	if exists(final) {
		return final, nil
	}
	if _, err := exec.LookPath("mvn"); err != nil {
		return "", errors.New("fetch Debezium: mvn is missing: apt-get install maven")
	}
	if err := os.MkdirAll(testbed.CacheDir(), 0o755); err != nil {
		return "", fmt.Errorf("make the cache (OUTBOXD_CACHE names another place): %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(testbed.CacheDir(), "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(final) {
		return final, nil
	}
	dir, err := os.MkdirTemp(testbed.CacheDir(), "partial-*")
	if err != nil {
		return "", fmt.Errorf("make a directory in the cache: %w", err)
	}
	defer os.RemoveAll(dir)
	project, lib := filepath.Join(dir, "project"), filepath.Join(dir, "lib")
	if err := os.Mkdir(project, 0o755); err != nil {
		return "", fmt.Errorf("make Maven's project: %w", err)
	}
	if err := os.WriteFile(filepath.Join(project, "pom.xml"), []byte(pom), 0o644); err != nil {
		return "", fmt.Errorf("write Maven's project: %w", err)
	}
	mvn := exec.CommandContext(ctx, "mvn", "-q", "-B", "-Dstyle.color=never",
		copyDependencies, "-DincludeScope=runtime", "-DoutputDirectory="+lib)
	mvn.Dir = project
	if out, err := mvn.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetch Debezium %s with Maven: %w\n%s", Version, err, bytes.TrimSpace(out))
	}
	if err := os.Rename(lib, final); err != nil {
		return "", fmt.Errorf("put Debezium in its place: %w", err)
	}
	return final, nil
}

// lock takes the cache's lock, which ends with this process at the latest.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the cache's lock: %w", err)
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

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
