package reconcile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Shadow says how records that another publisher wrote are compared with what the
// outbox gives.
type Shadow struct {
	Topic string
	// ID and Key are where a record has the event's id and its key: "key" for the
	// record's key, "header:NAME", or "$.path" in a JSON value.
	ID, Key string
	// Ignore are paths of JSON values, such as "$.meta.sent_at", that are not compared.
	Ignore []string
}

func (s *Shadow) check(format string) error {
	for _, place := range []string{s.ID, s.Key} {
		if place != "key" && !strings.HasPrefix(place, "header:") && !strings.HasPrefix(place, "$.") {
			return fmt.Errorf(`%q names no place in a record; give "key", "header:NAME" or "$.path"`, place)
		}
	}
	for _, path := range s.Ignore {
		if !strings.HasPrefix(path, "$.") {
			return fmt.Errorf("%q is no path in a JSON value such as $.meta.sent_at", path)
		}
	}
	if format == "avro" {
		return errors.New("values in Avro (value.format: avro) cannot be compared with what another publisher wrote")
	}
	return nil
}

// at returns what a record has at a place, nil for nothing.
func at(place string, r *kgo.Record) []byte {
	if place == "key" {
		return r.Key
	}
	if name, ok := strings.CutPrefix(place, "header:"); ok {
		for _, h := range r.Headers {
			if h.Key == name {
				return h.Value
			}
		}
		return nil
	}
	switch v := gjson.GetBytes(r.Value, strings.TrimPrefix(place, "$.")); v.Type {
	case gjson.Null:
		return nil
	case gjson.String:
		return []byte(v.Str)
	default:
		return []byte(v.Raw)
	}
}

// canonical returns a JSON value in a form that is the same for all that mean the same,
// without what is ignored. What is not JSON stays as it is.
func (s *Shadow) canonical(value []byte) []byte {
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var v any
	if value == nil || d.Decode(&v) != nil || d.More() {
		return value
	}
	for _, path := range s.Ignore {
		remove(v, strings.Split(strings.TrimPrefix(path, "$."), "."))
	}
	text, err := json.Marshal(numbers(v))
	if err != nil {
		return value
	}
	return text
}

// remove removes a member; "*" is every element of an array.
func remove(v any, path []string) {
	switch v := v.(type) {
	case map[string]any:
		if len(path) == 1 {
			delete(v, path[0])
		} else if inner, ok := v[path[0]]; ok {
			remove(inner, path[1:])
		}
	case []any:
		if path[0] == "*" && len(path) > 1 {
			for _, element := range v {
				remove(element, path[1:])
			}
		}
	}
}

// numbers writes numbers so that 1, 1.0 and 1e0 are one.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			v[name] = numbers(member)
		}
	case []any:
		for i, element := range v {
			v[i] = numbers(element)
		}
	case json.Number:
		// A large exponent would be a large number.
		if e := strings.IndexAny(string(v), "eE"); e >= 0 && len(v)-e > 4 || len(v) > 400 {
			return v
		}
		if r, ok := new(big.Rat).SetString(string(v)); ok {
			return map[string]any{"number": r.RatString()}
		}
	}
	return v
}

// recent reports whether the other publisher may not have come to it yet, or the
// transaction not have ended: it writes to both at its own pace.
func (c *comparison) recent(at int64) bool {
	return at == 0 || at > c.begun.Add(-c.o.Late).UnixMilli()
}

// shadowed judges time and order of a record of the other publisher.
func (c *comparison) shadowed(row, e *entry) error {
	by := time.Duration(e.time-row.time) * time.Millisecond
	if c.o.Late > 0 && by.Abs() > c.o.Late {
		c.result.found(c.example(Late, e, fmt.Sprintf("its time is %s from that of its row", by.Round(time.Millisecond))))
	}
	if e.key == 0 {
		return nil
	}
	// In the order of the rows, by key.
	o := *e
	o.position = row.position
	return c.orders.addTo(e.key, &o, false)
}

// shadowOrder looks for records that come after one of a later row of their key.
func (c *comparison) shadowOrder() error {
	for i := range c.orders.buckets {
		keys := make(map[uint64][]*entry)
		if err := c.orders.each(i, func(e *entry) error { keys[e.key] = append(keys[e.key], e); return nil }); err != nil {
			return err
		}
		for _, entries := range keys {
			slices.SortFunc(entries, func(a, b *entry) int {
				if a.partition != b.partition {
					return int(a.partition) - int(b.partition)
				}
				return int(int64(a.number) - int64(b.number))
			})
			newest := entries[0].position
			for _, e := range entries[1:] {
				if newest.After(e.position) {
					found := *e
					found.position = (&entry{}).position
					c.result.found(c.example(OutOfOrder, &found, "a later event of its key comes before it"))
				} else {
					newest = e.position
				}
			}
		}
	}
	return nil
}
