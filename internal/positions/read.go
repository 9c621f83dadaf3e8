package positions

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/records"
)

// read gives every committed record to add, in the order of their offsets.
func (s *Store) read(ctx context.Context, add func(*kgo.Record)) error {
	reader := records.Reader{Client: s.client, Topic: s.o.Topic}
	begin, end, err := reader.Range(ctx, 0)
	if err != nil {
		return err
	}
	return reader.Read(ctx, 0, begin, end, func(r *kgo.Record) error {
		add(r)
		return nil
	})
}
