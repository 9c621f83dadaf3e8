//go:build unix && !linux

package testbed

import (
	"errors"
	"io"
	"syscall"
)

func endWithParent(*syscall.SysProcAttr, syscall.Signal) {}

func claimPort(int) (io.Closer, error) { return io.NopCloser(nil), nil }

func ephemeralStart() int { return 32768 }

func childrenOf(int) ([]int, error) {
	return nil, errors.New("list processes: supported on Linux only")
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
