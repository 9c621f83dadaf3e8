package positions

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/records"
)

// read gives every committed record to add, in the order of their offsets. It waits for
// transactions that are still open, or leaves out what they hold up.
func (s *Store) read(ctx context.Context, waits bool, add func(*kgo.Record)) error {
	reader := records.Reader{Client: s.client, Topic: s.o.Topic}
	ends := reader.Stable
	if waits {
		ends = reader.Range
	}
	begin, end, err := ends(ctx, 0)
	if err != nil {
		return err
	}
	return reader.Read(ctx, 0, begin, end, func(r *kgo.Record) error {
		add(r)
		return nil
	})
}
