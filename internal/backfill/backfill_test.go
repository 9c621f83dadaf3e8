package backfill

import (
	"testing"

	"outboxd/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m, "outboxd/internal/backfill.") }

func TestOrder(t *testing.T) {
	for _, test := range []struct{ timestamp, serial, want string }{
		{"", "", ""},
		{"", "id", ` ORDER BY "id"`},
		{"at", "", ` ORDER BY "at" NULLS FIRST, tableoid, ctid`},
		{`a"t`, "Id", ` ORDER BY "a""t" NULLS FIRST, "Id"`},
	} {
		if got := order(test.timestamp, test.serial); got != test.want {
			t.Errorf("%q, %q: %s, want %s", test.timestamp, test.serial, got, test.want)
		}
	}
}
