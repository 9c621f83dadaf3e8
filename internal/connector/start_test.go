package connector

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"outboxd/offsets"
)

// What a start warns of has its error, store and positions as fields.
func TestNote(t *testing.T) {
	var out bytes.Buffer
	p := &Connector{log: zerolog.New(&out)}
	p.note(offsets.Note{Message: "m", Err: offsets.ErrSlotAhead, Store: "file f", At: []offsets.NamedLSN{{Name: "to", LSN: 0x200}, {Name: "from", LSN: 0x100}}})
	p.note(offsets.Note{Message: "n"})
	want := `{"level":"warn","error":"` + offsets.ErrSlotAhead.Error() + `","store":"file f","to":"0/200","from":"0/100","message":"m"}` + "\n" + `{"level":"warn","message":"n"}` + "\n"
	if got := out.String(); got != want || strings.Count(got, "\n") != 2 {
		t.Errorf("%s, want %s", got, want)
	}
}
