package rawconn

import (
	"net"
	"testing"
)

// The switch decides about connections that are made later; the gauge counts those
// that are raw, once each.
func TestSwitch(t *testing.T) {
	defer Enable(true)
	before := Open()
	on, _ := pair(t, "tcp", raw)
	if _, ok := on.(*conn); !ok || Open() != before+1 {
		t.Errorf("%T, and %d raw connections are open, %d before", on, Open(), before)
	}
	Enable(false)
	off, theirs := pair(t, "tcp", raw)
	if _, ok := off.(*net.TCPConn); !ok || Open() != before+1 {
		t.Errorf("off: %T, and %d raw connections are open, %d before", off, Open(), before)
	}
	go theirs.Write([]byte("x"))
	if n, err := off.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	on.Close()
	on.Close()
	off.Close()
	if Open() != before {
		t.Errorf("%d raw connections are open after the end, %d before", Open(), before)
	}
	Enable(true)
	if again, _ := pair(t, "tcp", raw); Open() != before+1 {
		t.Errorf("on again: %T", again)
	}
}
