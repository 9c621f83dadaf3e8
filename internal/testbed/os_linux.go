package testbed

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

// endWithParent asks the kernel to send sig to the child when the thread that
// starts it ends; see startProcess for the thread.
func endWithParent(attr *syscall.SysProcAttr, sig syscall.Signal) {
	attr.Pdeathsig = sig
}

// claimPort takes a port number for this process among all that use this
// package, whether or not anything listens on the port at the moment. The
// claim is an abstract Unix socket: it has no file, lives in the same network
// namespace as the port, and the kernel drops it when the process dies.
func claimPort(port int) (io.Closer, error) {
	return net.Listen("unix", fmt.Sprintf("@outboxd-testbed-port-%d", port))
}

// ephemeralStart returns the first port the kernel hands out by itself.
func ephemeralStart() int {
	first := 32768
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(b), &first)
	}
	return first
}

// childrenOf lists the processes whose parent is pid, zombies left out.
func childrenOf(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var children []int
	for _, e := range entries {
		var child int
		if _, err := fmt.Sscanf(e.Name(), "%d", &child); err != nil {
			continue
		}
		if state, parent, ok := procStat(child); ok && parent == pid && state != "Z" {
			children = append(children, child)
		}
	}
	return children, nil
}

// alive reports whether pid runs: a zombie holds no file and no memory.
func alive(pid int) bool {
	state, _, ok := procStat(pid)
	return ok && state != "Z" && state != "X"
}

func procStat(pid int) (state string, parent int, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, false
	}
	// The command's name stands in parentheses and may hold any character.
	_, rest, _ := cutLast(string(b), ")")
	if _, err := fmt.Sscan(rest, &state, &parent); err != nil {
		return "", 0, false
	}
	return state, parent, true
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
