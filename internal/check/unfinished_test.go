package check

import (
	"testing"

	"outboxd/internal/finding"
	"outboxd/offsets"
)

// A backfill that was not done is no fault where the configuration makes it again.
func TestUnfinishedBackfill(t *testing.T) {
	mark := &offsets.Position{SystemID: "7301", Backfill: true}
	for name, test := range map[string]struct {
		stored   *offsets.Position
		system   string
		backfill bool
		want     bool
	}{
		"again":                 {mark, "7301", true, true},
		"turned off meanwhile":  {mark, "7301", false, false},
		"of another system":     {mark, "1", true, false},
		"a position":            {&offsets.Position{SystemID: "7301"}, "7301", true, false},
		"nothing is stored yet": {nil, "7301", true, false},
	} {
		found, is := unfinished(test.stored, offsets.Server{SystemID: test.system}, test.backfill)
		if is != test.want || is && found.Level != finding.OK {
			t.Errorf("%s: %t, %+v", name, is, found)
		}
	}
}
