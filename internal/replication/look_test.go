package replication

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"outboxd/offsets"
)

// The queries of a look do not see one moment. What is dropped between two of them is said
// to be gone, and not to be without what it had.
func TestDroppedWhileItIsLookedAt(t *testing.T) {
	row := func(values ...string) *pgconn.Result {
		r := &pgconn.Result{}
		if len(values) > 0 {
			r.Rows = [][][]byte{nil}
		}
		for _, v := range values {
			r.Rows[0] = append(r.Rows[0], []byte(v))
		}
		return r
	}
	o := Options{Slot: "outboxd", Publication: "outboxd", Schema: "public", Table: "outbox"}
	for last, want := range map[[2]string]string{
		{"t", "t"}: `publication "outboxd" does not contain "public"."outbox"`,
		{"t", "f"}: `publication "outboxd" was not there`,
		{"f", "t"}: `table "public"."outbox" does not exist`,
		{"f", "f"}: `table "public"."outbox" does not exist`,
	} {
		l, err := lookFrom([]*pgconn.Result{
			row("0"), row("100", "r", "p", "f"), row(), row("200", "t", "t", "f", "f", "7"), row(), row(), row(last[0], last[1]),
		}, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.unfitNow(o, offsets.Outbox{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the table is there afterwards %s, the publication %s: %v", last[0], last[1], err)
		}
	}
}
