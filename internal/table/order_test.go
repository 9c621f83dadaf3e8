package table

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Rows come in their order whether they fit into memory or not.
func TestKeysAreSorted(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, limit := range []int{10_000, 64, 1} {
		k := NewKeys()
		k.limit = limit
		var want []Key
		for range 500 {
			key := Key{Time: random.Int64N(5) - 1, Serial: random.Int64N(5), Place: Place{uint16(random.IntN(2)), random.Uint32(), uint16(random.IntN(300))}}
			want = append(want, key)
			if err := k.Add(key); err != nil {
				t.Fatal(err)
			}
		}
		slices.SortFunc(want, Key.Compare)
		var got []Key
		if err := k.Sorted(func(key Key) error { got = append(got, key); return nil }); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) || k.Len() != 500 {
			t.Errorf("limit %d: not in order: %v", limit, got)
		}
		k.Close()
	}
}

func TestArray(t *testing.T) {
	if got, want := array([]string{"a", `b"\`, "", "{,}"}), `{"a","b\"\\","","{,}"}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
