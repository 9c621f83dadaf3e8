package offsets

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
)

func TestWindow(t *testing.T) {
	server := Server{FlushLSN: 0x300, Slot: &Slot{Name: "s", ConfirmedFlush: 0x200}}
	w, err := WindowOf(server)
	if err != nil || w != (Window{0x200, 0x300}) {
		t.Fatalf("%v, %v", w, err)
	}
	for lsn, inside := range map[uint64]bool{0x1ff: false, 0x200: true, 0x2ff: true, 0x300: true, 0x301: false} {
		err := w.Contains(pglogrepl.LSN(lsn))
		if (err == nil) != inside {
			t.Errorf("%X: %v", lsn, err)
		}
		if err != nil && (!errors.Is(err, ErrOutsideWindow) || !strings.Contains(err.Error(), "0/200 to 0/300")) {
			t.Errorf("%X: %v", lsn, err)
		}
	}
	server.Slot.WALStatus = "lost"
	if _, err := WindowOf(server); !errors.Is(err, ErrSlotInvalid) {
		t.Errorf("a slot without WAL: %v", err)
	}
	if _, err := WindowOf(Server{}); !errors.Is(err, ErrSlotGone) {
		t.Errorf("no slot: %v", err)
	}
}
