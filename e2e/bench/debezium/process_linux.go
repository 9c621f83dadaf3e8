package debezium

import "syscall"

// childAttributes let the kernel end the child with us, and keep a terminal's
// Ctrl-C from it: we stop it ourselves.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
