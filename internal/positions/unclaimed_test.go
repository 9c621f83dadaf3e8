package positions

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A claim that was not acknowledged is none: the next start makes it again. Found by
// the simulator.
func TestFailedClaim(t *testing.T) {
	c := broker(t)
	s := open(t, c, "outboxd")
	expect(t, s, nil)
	refusal := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Save(ctx, position(10, "outboxd")); err == nil || s.Claimed() {
		t.Errorf("saved although Kafka takes nothing: %v, claimed %t", err, s.Claimed())
	}
	refusal.Remove()
	save(t, s, position(20, "outboxd"))
	if !s.Claimed() {
		t.Error("the claim was made, and is not known")
	}
	want := position(20, "outboxd")
	if expect(t, s, &want); !s.Claimed() {
		t.Error("our own position is not claimed any more")
	}
}
