package recovery

import (
	"testing"

	"outboxd/offsets"
)

// Where the server may have lost transactions that were published, its ids may come again.
func TestLost(t *testing.T) {
	server := offsets.Server{SystemID: "1", Timeline: 2, FlushLSN: 100}
	for name, test := range map[string]struct {
		stored *offsets.Position
		want   bool
	}{
		"the same history":         {&offsets.Position{SystemID: "1", Timeline: 2, LSN: 100}, false},
		"another system":           {&offsets.Position{SystemID: "2", Timeline: 2, LSN: 90}, true},
		"promoted since":           {&offsets.Position{SystemID: "1", Timeline: 1, LSN: 90}, true},
		"an old primary":           {&offsets.Position{SystemID: "1", Timeline: 3, LSN: 90}, true},
		"put back":                 {&offsets.Position{SystemID: "1", Timeline: 2, LSN: 101}, true},
		"nothing stored, promoted": {nil, true},
	} {
		if got := lost(test.stored, server); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if server.Timeline = 1; lost(nil, server) {
		t.Error("nothing stored, never promoted: lost")
	}
}
