package positions

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/offsets"
)

// Who has the slot owns its position. A process that was suspended or cut off may
// still write an older one, behind those of the process that has taken over, and
// nothing in Kafka keeps it from that. So each process claims the position when it
// has the slot, with a number one higher than any that it has read (the epoch), and
// a position counts only if no claim is newer. The order of the records means
// nothing.
//
//   - Two processes have the same epoch only if one was suspended between reading
//     and claiming. Then the higher position counts: both say that Kafka has
//     acknowledged everything before it, and both are right. The mark of a backfill
//     that was begun says nothing of the kind: any position counts instead.
//   - Each claim has a key of its own, or compaction could leave the late record of
//     an old process alone. The claim that follows deletes the older keys.
//   - With exactly_once the brokers keep an older process out, and the key is the
//     slot's name.
//   - A record without a claim is of an earlier version. The last of them counts,
//     as it did there, and only where no process has claimed since.
//
// A record carries a check of its key and contents, so that a record that is not
// outboxd's is not taken for a position. It is no secret: who may write to the topic
// can still forge one.
const (
	ownerHeader = "owner"
	epochHeader = "epoch"
	checkHeader = "check"
)

// key is that of this process's claim. No slot's name has a slash in it.
func (s *Store) key() string {
	return s.o.Slot + "/" + strconv.FormatUint(s.epoch, 10) + "/" + s.owner
}

// outbid makes the claim newer than any that was read.
func (s *Store) outbid() {
	if s.epoch <= s.newest {
		s.epoch, s.held = s.newest+1, false
	}
}

// record returns a record of this process's claim.
func (s *Store) record(key string, p offsets.Position) *kgo.Record {
	s.outbid()
	value, epoch := p.Encode(), strconv.FormatUint(s.epoch, 10)
	return &kgo.Record{
		Topic: s.o.Topic,
		Key:   []byte(key),
		Value: value,
		Headers: []kgo.RecordHeader{
			{Key: ownerHeader, Value: []byte(s.owner)},
			{Key: epochHeader, Value: []byte(epoch)},
			{Key: checkHeader, Value: []byte(check(key, value, s.owner, epoch))},
		},
	}
}

// check is the CRC-32C of what a record says, each part with its length.
func check(key string, value []byte, owner, epoch string) string {
	data := []byte("outboxd position")
	for _, part := range []string{key, string(value), owner, epoch} {
		data = binary.BigEndian.AppendUint32(data, uint32(len(part)))
		data = append(data, part...)
	}
	return fmt.Sprintf("%08x", crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
}

// claim is one position in the topic.
type claim struct {
	position offsets.Position
	key      string
	owner    string
	epoch    uint64 // 0: of an earlier version
	offset   int64
}

// over reports whether c counts instead of d, whose record came before.
func (c *claim) over(d *claim) bool {
	switch {
	case c.epoch != d.epoch:
		return c.epoch > d.epoch
	case c.epoch == 0:
		return true // the last one, as it was then
	case c.position.Backfill != d.position.Backfill:
		return d.position.Backfill // that it is done counts, also before the mark: of a standby that is behind
	case c.position.LSN != d.position.LSN:
		return c.position.LSN > d.position.LSN
	}
	return !d.position.Inside.After(c.position.Inside)
}

// foreign is a record that has the slot's key and is not outboxd's.
type foreign struct {
	key    string
	offset int64
	err    error
}

// claims gathers what a topic has of one slot.
type claims struct {
	slot    string
	live    []*claim // the best of each key
	foreign *foreign // the last one
}

// add takes the topic's next record.
func (c *claims) add(r *kgo.Record) {
	key := string(r.Key)
	if slot, _, _ := strings.Cut(key, "/"); slot != c.slot {
		return
	}
	at := -1
	for i, l := range c.live {
		if l.key == key {
			at = i
		}
	}
	if r.Value == nil { // deleted: by the next claim, or by an operator
		if at >= 0 {
			c.live = append(c.live[:at], c.live[at+1:]...)
		}
		if c.foreign != nil && c.foreign.key == key {
			c.foreign = nil
		}
		return
	}
	next, err := parse(r)
	switch {
	case err != nil:
		c.foreign = &foreign{key, r.Offset, err}
	case at < 0:
		c.live = append(c.live, next)
	case next.over(c.live[at]):
		c.live[at] = next
	}
}

// best returns the claim that counts, nil when there is none. A record that is not
// outboxd's is an error where nothing says that it is not the position: where there
// is no claim.
func (c *claims) best() (best *claim, err error) {
	for _, l := range c.live {
		if best == nil || l.over(best) {
			best = l
		}
	}
	if f := c.foreign; f != nil && (best == nil || best.epoch == 0 && f.offset > best.offset) {
		return nil, fmt.Errorf("offset %d, key %q: %w; check that no other program writes there; a record with this key and no value "+
			"lets outboxd resume at the slot's own position", f.offset, f.key, f.err)
	}
	return best, nil
}

// others are the keys of all claims but this one, and the slot's name.
func (c *claims) others(key string) (keys []string) {
	for _, l := range c.live {
		if l.key != key && l.key != c.slot {
			keys = append(keys, l.key)
		}
	}
	return keys
}

// parse reads a record, and holds it to its check.
func parse(r *kgo.Record) (*claim, error) {
	position, err := offsets.Decode(r.Value)
	if err != nil {
		return nil, err
	}
	c := &claim{position: position, key: string(r.Key), offset: r.Offset}
	var epoch, sum string
	for _, h := range r.Headers {
		switch value := string(h.Value); h.Key {
		case ownerHeader:
			c.owner = value
		case epochHeader:
			epoch = value
		case checkHeader:
			sum = value
		default:
			return nil, fmt.Errorf("it has a header %.50q, which positions do not have", h.Key)
		}
	}
	if epoch == "" && sum == "" {
		if strings.Contains(c.key, "/") {
			return nil, errors.New("it has no check")
		}
		return c, nil
	}
	if sum != check(c.key, r.Value, c.owner, epoch) {
		return nil, errors.New("its check is wrong")
	}
	if c.epoch, err = strconv.ParseUint(epoch, 10, 64); err != nil || c.epoch == 0 {
		return nil, fmt.Errorf("epoch %.50q", epoch)
	}
	return c, nil
}
