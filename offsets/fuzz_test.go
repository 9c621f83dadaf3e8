package offsets

import (
	"bytes"
	"testing"
)

// Whatever a position file or a position record holds is a whole position, which is
// written again as the same one, or an error.
func FuzzDecodePosition(f *testing.F) {
	f.Add(Position{SystemID: "7301", Timeline: 2, Slot: "outboxd", LSN: 0x1_00000100}.Encode())
	f.Add(Position{SystemID: "7301", Timeline: 1, Slot: "outboxd", LSN: 0x100, Inside: Event{CommitLSN: 0x200, Number: 3},
		Outbox: Outbox{Table: 1, Publication: 2, Entry: 3, Seen: 0x100}}.Encode())
	f.Add([]byte(`{"system_id":"7301","timeline":1,"slot":"outboxd","lsn":"0/0","past":[{"lsn":"0/1","at":1}]}`))
	f.Add([]byte(`{"system_id":"7301","timeline":-1,"slot":"","lsn":"FFFFFFFFF/1"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Decode(data)
		if err != nil {
			if p != (Position{}) {
				t.Errorf("an error, and %s", p)
			}
			return
		}
		if p.SystemID == "" || p.Slot == "" || p.Timeline <= 0 {
			t.Errorf("not whole: %+v", p)
		}
		again, err := Decode(p.Encode())
		if err != nil || again != p {
			t.Errorf("written again: %+v instead of %+v, %v", again, p, err)
		}
		if !bytes.Equal(again.Encode(), p.Encode()) {
			t.Error("encoded in two ways")
		}
	})
}
