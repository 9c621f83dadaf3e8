package sink

import (
	"context"
	"slices"
	"testing"
)

// Those that came back last are used next, with what room for headers turned out
// to be needed.
func TestSparesAreUsedNewestFirst(t *testing.T) {
	s := &spares{most: 5}
	var used []*Delivery
	for range 3 * slab {
		d := s.get(context.Background())
		if cap(d.Headers) != 5 || len(d.Headers) != 0 {
			t.Fatalf("a fresh delivery has %d of %d headers", len(d.Headers), cap(d.Headers))
		}
		used = append(used, d)
	}
	for _, d := range used {
		s.put(d)
	}
	for i := range slab {
		if d := s.get(context.Background()); !slices.Contains(used[2*slab:], d) {
			t.Fatalf("number %d is not of those that came back last", i)
		}
	}
	// One that comes back meanwhile is used before the older ones.
	last := used[2*slab]
	s.put(last)
	if d := s.get(context.Background()); d != last {
		t.Error("an older delivery is used first")
	}
	for range 2*slab - 1 {
		if d := s.get(context.Background()); !slices.Contains(used, d) {
			t.Fatal("a new delivery was made although used ones are there")
		}
	}
}
