package decoder

import (
	"runtime"
	"testing"
)

// A database with very many tables, or a server that never ends describing them,
// takes a bounded amount of memory.
func TestEndlessRelations(t *testing.T) {
	d := decodeTable(t, outbox)
	d.want(Skipped, relationMessage(outboxID, "public", "outbox", outboxColumns...))
	d.want(Begin, beginMessage(0x500, committedAt))
	other := relationMessage(1, "public", "other", column{"a", textOID}, column{"b", textOID})
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	const n = maxOthers + maxOthers/2
	for id := uint32(100_000); id < 100_000+n; id++ {
		other[1], other[2], other[3], other[4] = byte(id>>24), byte(id>>16), byte(id>>8), byte(id)
		if kind, err := d.Decode(other); kind != Skipped || err != nil {
			t.Fatalf("%d: %v, %v", id, kind, err)
		}
	}
	if grown := int64(heap()) - int64(before); grown > 16<<20 {
		t.Errorf("%d MiB for %d tables", grown>>20, n)
	}
	// Those that are forgotten are still others, and the outbox is what it was.
	d.want(Skipped, insertMessage(100_000, "x", "y"))
	d.want(Skipped, insertMessage(100_000+n-1, "x", "y"))
	d.want(Insert, insertMessage(outboxID, "id-1", "order-1", "T", nil, "{}"))
	// A table that takes the outbox's name is described before it is used.
	d.want(Skipped, relationMessage(100_000, "public", "outbox", outboxColumns...))
	d.want(Insert, insertMessage(100_000, "id-2", "order-1", "T", nil, "{}"))
	runtime.KeepAlive(d)
}

func TestEndlessOutboxes(t *testing.T) {
	d := decodeTable(t, outbox)
	for id := range uint32(maxOutboxes) {
		d.want(Skipped, relationMessage(id, "public", "outbox", outboxColumns...))
		d.want(Skipped, relationMessage(id, "public", "outbox", outboxColumns...)) // changed, not another
	}
	// One that became another table makes room.
	d.want(Skipped, relationMessage(0, "public", "old_outbox", outboxColumns...))
	d.want(Skipped, relationMessage(maxOutboxes, "public", "outbox", outboxColumns...))
	d.wantError(ErrProtocol, relationMessage(maxOutboxes+1, "public", "outbox", outboxColumns...), "public.outbox")
}
