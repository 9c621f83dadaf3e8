package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// run says to a service manager that it runs, also while what it needs is down, and that
// it stops.
func TestRunNotifies(t *testing.T) {
	dir, err := os.MkdirTemp("", "sd") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	messages := make(chan string, 100)
	go func() {
		defer close(messages)
		for b := make([]byte, 4096); ; {
			n, err := manager.Read(b)
			if err != nil {
				return
			}
			messages <- string(b[:n])
		}
	}()
	config, ended := write(t, good), make(chan outcome, 1)
	go func() { ended <- outboxd(t, "run", "--config", config) }()
	until := func(want string) {
		t.Helper()
		for deadline := time.After(30 * time.Second); ; {
			select {
			case m := <-messages:
				if strings.Contains(m, want) {
					return
				}
			case <-deadline:
				t.Fatalf("never: %s", want)
			}
		}
	}
	until("READY=1\nSTATUS=waiting, not ready: ")
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := self.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	until("STOPPING=1")
	if o := <-ended; o.code != 0 {
		t.Errorf("%+v", o)
	}
}
