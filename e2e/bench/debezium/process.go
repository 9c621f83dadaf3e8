package debezium

import (
	"bytes"
	"errors"
	"fmt"
	"os"
)

// cpuSeconds returns the processor time that a process has used, all its
// threads together, user and system.
func cpuSeconds(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	// The command's name stands in parentheses and may hold any character.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 13 {
		return 0, errors.New("read processor time: /proc/PID/stat is too short")
	}
	// Fields 14 and 15 of proc(5), in units that are 1/100 s everywhere.
	var user, system float64
	if _, err := fmt.Sscan(string(fields[11])+" "+string(fields[12]), &user, &system); err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return (user + system) / 100, nil
}

// peakRSS returns the most memory, in bytes, that a process ever held.
func peakRSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read peak memory: %w", err)
	}
	_, rest, ok := bytes.Cut(b, []byte("\nVmHWM:"))
	if !ok {
		return 0, errors.New("read peak memory: /proc/PID/status has no VmHWM")
	}
	var kib int64
	if _, err := fmt.Sscan(string(rest), &kib); err != nil {
		return 0, fmt.Errorf("read peak memory: %w", err)
	}
	return kib << 10, nil
}
