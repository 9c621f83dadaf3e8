package testbed

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
)

// Registry is an Apicurio schema registry that speaks the Confluent API. Its
// address stays the same across stops and starts; its schemas do not, as it
// keeps them in memory.
//
// Methods may be called from any goroutine; Stop and Start one at a time.
type Registry struct {
	java string
	jar  string
	base string
	port *port

	mu      sync.Mutex
	process *process
	closed  bool
}

// StartRegistry starts an empty registry, fetching it first if need be, and
// returns when it answers. The caller closes it.
func StartRegistry(ctx context.Context) (_ *Registry, err error) {
	r := &Registry{}
	defer func() {
		if err != nil {
			r.Close()
			err = fmt.Errorf("start registry: %w", err)
		}
	}()
	if r.java, err = javaPath(); err != nil {
		return nil, err
	}
	if r.jar, err = registryJar(ctx); err != nil {
		return nil, err
	}
	if r.base, _, err = serverDir("", "registry"); err != nil {
		return nil, err
	}
	if r.port, err = takePort(); err != nil {
		return nil, err
	}
	if err := r.Start(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// URL returns the base of the Confluent API, to which paths such as /subjects
// are appended.
func (r *Registry) URL() string { return "http://" + r.port.addr() + "/apis/ccompat/v7" }

// LogFile returns the file with the registry's log, of all starts.
func (r *Registry) LogFile() string { return filepath.Join(r.base, "registry.log") }

// Start starts a stopped registry, empty, and returns when it answers. A
// running one is an error.
func (r *Registry) Start(ctx context.Context) error {
	r.mu.Lock()
	if r.closed || r.process.running() {
		r.mu.Unlock()
		return errors.New("start registry: it is running or closed")
	}
	// Its own context: the registry is to outlive the one of this call.
	cmd := exec.CommandContext(context.Background(), r.java, "-Xmx256m", "-XX:TieredStopAtLevel=1",
		"-Dquarkus.http.host=127.0.0.1", fmt.Sprintf("-Dquarkus.http.port=%d", r.port.number),
		"-jar", r.jar)
	cmd.Dir = r.base
	proc, err := startProcess(cmd, r.LogFile(), syscall.SIGKILL)
	if err != nil {
		r.mu.Unlock()
		return fmt.Errorf("start registry: %w", err)
	}
	r.process = proc
	r.mu.Unlock()
	return waitReady(ctx, "registry", proc, r.LogFile(), func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL()+"/subjects", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("GET /subjects: %s", resp.Status)
		}
		return nil
	})
}

// Stop ends the registry at once; connections to it are then refused.
func (r *Registry) Stop() error {
	r.mu.Lock()
	proc := r.process
	r.mu.Unlock()
	if err := proc.kill(); err != nil {
		return fmt.Errorf("stop registry: %w", err)
	}
	return nil
}

// Close ends the registry for good. Closing twice is harmless.
func (r *Registry) Close() {
	r.mu.Lock()
	first := !r.closed
	r.closed = true
	r.mu.Unlock()
	if !first {
		return
	}
	_ = r.Stop()
	r.port.release()
	if r.base != "" {
		_ = os.RemoveAll(r.base)
	}
}
