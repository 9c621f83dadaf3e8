package record

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A spare record keeps little memory, and none of the event's.
func TestReset(t *testing.T) {
	for _, size := range []int{1, keep, keep + 1, 1 << 20} {
		view := []byte(strings.Repeat("k", size))
		r := Record{Record: kgo.Record{Topic: "t", Key: view, Value: view, Partition: 7}, ID: view, Buffer: make([]byte, size), Scratch: make([]byte, size)}
		r.AddHeader("id", view)
		if n := r.Made(); n != 2*size {
			t.Errorf("%d bytes twice are %d", size, n)
		}
		views := r.Headers
		r.Reset()
		want := 2 * size
		if size > keep {
			want = 0
		}
		if r.Key != nil || r.Value != nil || r.ID != nil || r.Topic != "" || r.Partition != ByKey || len(r.Headers) > 0 || r.Made() != want {
			t.Errorf("after a reset, with %d bytes of its own: %+v", r.Made(), r)
		}
		for _, h := range views {
			if h.Key != "" || h.Value != nil {
				t.Errorf("it keeps the header %s", h.Key)
			}
		}
	}
}
