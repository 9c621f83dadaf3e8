package sink

import (
	"context"
	"testing"
	"unsafe"
)

// Deliveries are handed out as they lie in memory, and the slab that came back last
// is used first, with what room for headers turned out to be needed.
func TestSparesAreUsedInOrder(t *testing.T) {
	ctx := context.Background()
	s := &spares{most: 5}
	var used []*Delivery
	for i := range 3 * slabSize {
		d := s.get(ctx)
		if cap(d.Headers) != 5 || len(d.Headers) != 0 {
			t.Fatalf("a fresh delivery has %d of %d headers", len(d.Headers), cap(d.Headers))
		}
		if i%slabSize > 0 && uintptr(unsafe.Pointer(d)) != uintptr(unsafe.Pointer(used[i-1]))+unsafe.Sizeof(*d) {
			t.Fatalf("number %d does not lie behind the one before", i)
		}
		used = append(used, d)
	}
	// All of the second slab comes back, and then all of the others but one each.
	for i := range slabSize {
		s.put(used[2*slabSize-1-i])
	}
	for i := 1; i < slabSize; i++ {
		s.put(used[i])
		s.put(used[2*slabSize+i])
	}
	for i := range slabSize {
		if d := s.get(ctx); d != used[slabSize+i] {
			t.Fatalf("number %d is not that of the slab that came back", i)
		}
	}
	s.put(used[0])
	s.put(used[2*slabSize])
	if d := s.get(ctx); d != used[2*slabSize] {
		t.Error("not the slab that came back last")
	}
	s.unget()
	if d := s.get(ctx); d != used[2*slabSize] {
		t.Error("what was taken back is not handed out again")
	}
	for range slabSize - 1 {
		s.get(ctx)
	}
	if d := s.get(ctx); d != used[0] {
		t.Error("a new slab was made although a used one is there")
	}
}
