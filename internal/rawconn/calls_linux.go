package rawconn

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Held returns how many bytes a socket holds that were not read, and 0 where that cannot
// be told (TIOCINQ in tcp(7)).
func Held(fd uintptr) int {
	var n int32
	_, _, _ = syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TIOCINQ, uintptr(unsafe.Pointer(&n)))
	return int(n)
}

// SetLowWater sets how many bytes a socket must hold before a reader is woken: SO_RCVLOWAT
// in socket(7). Where that cannot be set it stays as it is.
func SetLowWater(fd uintptr, bytes int) {
	n := int32(bytes)
	_, _, _ = syscall.RawSyscall6(unix.SYS_SETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, uintptr(unsafe.Pointer(&n)), unsafe.Sizeof(n), 0)
}

// SinceBoot is a clock that nobody sets. Unlike Go's monotonic clock it counts while the
// machine is suspended: CLOCK_BOOTTIME in clock_gettime(2).
func SinceBoot() time.Duration {
	var t unix.Timespec
	if _, _, errno := syscall.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&t)), 0); errno != 0 {
		return time.Since(started)
	}
	return time.Duration(t.Nano())
}
