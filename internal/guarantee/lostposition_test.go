package guarantee

import (
	"errors"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/positions"
	"outboxd/offsets"
)

// A position that vanished from its topic is not put down to another process: the
// topic was deleted under the run.
func TestPositionThatVanished(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	store, err := positions.New(positions.Options{Topic: "outboxd.positions", Slot: "a", Log: zerolog.Nop(), Client: []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	known := offsets.Position{SystemID: "7301", Timeline: 1, Slot: "a", LSN: 0x100}
	e := NewExactlyOnce(store, "a", "outboxd-a")
	if err := e.Check(t.Context(), nil); err != nil {
		t.Errorf("nothing was claimed: %v", err)
	}
	e.claimed = true
	err = e.Check(t.Context(), &known)
	if errors.Is(err, ErrTakenOver) || !errors.Is(err, offsets.ErrUnusable) {
		t.Errorf("not the real reason: %v", err)
	}
	if err == nil || !strings.Contains(err.Error(), "deleted or recreated") || !strings.Contains(err.Error(), "0/100") {
		t.Errorf("the reason is not said: %v", err)
	}

	// A record of another process is one.
	other, err := positions.New(positions.Options{Topic: "outboxd.positions", Slot: "a", Log: zerolog.Nop(), Client: []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Save(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	if err := e.Check(t.Context(), &known); !errors.Is(err, ErrTakenOver) {
		t.Errorf("another's record: %v", err)
	}
	e.Replaced() // it was seen in the slot: this process stands by
	if err := e.Check(t.Context(), &known); err != nil {
		t.Errorf("standing by: %v", err)
	}
}
