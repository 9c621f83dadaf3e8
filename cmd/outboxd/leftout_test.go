package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"outboxd/decoder"
	"outboxd/internal/config"
	"outboxd/internal/format"
)

func TestLeftOutMembersAreWarnedOfOnce(t *testing.T) {
	var log bytes.Buffer
	warn := warnLeftOut(zerolog.New(&log))
	ev := &decoder.Event{Position: decoder.Position{CommitLSN: 1, Number: 1}, Values: make([][]byte, decoder.NumFields)}
	ev.Values[decoder.ID] = []byte("event-1")
	for range 3 {
		warn(ev, "position")
		warn(ev, strings.Repeat("x", 1000))
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `"header":"position"`) || !strings.Contains(lines[0], "event-1") || len(lines[1]) > 1000 {
		t.Errorf("%s", log.String())
	}
	for i := range 1000 {
		warn(ev, fmt.Sprintf("error.%d", i))
	}
	if n := strings.Count(log.String(), "\n"); n != maxNamesLeftOut {
		t.Errorf("%d lines", n)
	}
}

// The configuration refuses for outbox.headers what formats leave out of
// outbox.headers_column.
func TestOwnHeadersAreRefusedAndLeftOut(t *testing.T) {
	for _, value := range []string{"raw", "cloudevents", "debezium"} {
		for _, style := range []string{"plain", "cloudevents", "debezium"} {
			if style == "cloudevents" && value != "raw" || value == "debezium" && style != "debezium" {
				continue
			}
			load := func(headers string) (*config.Config, error) {
				return config.Load(write(t, good+fmt.Sprintf("value: {format: %s, headers: %s}\noutbox: {headers: {%s}}\n", value, style, headers)), nil)
			}
			cfg, err := load("")
			if err != nil {
				t.Fatal(err)
			}
			_, read := rules(cfg)
			o := formatOptions(&formatWiring{cfg: cfg, read: read, log: zerolog.Nop()}, func(_ string, err error) {
				if err != nil {
					t.Error(err)
				}
			})
			names := slices.Collect(func(yield func(string) bool) {
				for name := range o.OwnNames() {
					if !yield(name) {
						return
					}
				}
				for _, prefix := range format.OwnPrefixes {
					if !yield(prefix + "x") {
						return
					}
				}
			})
			for _, name := range names {
				if _, err := load(name + ": c"); err == nil || !strings.Contains(err.Error(), "outbox.headers."+name+": is a header") {
					t.Errorf("%s, %s: header %s: %v", value, style, name, err)
				}
			}
		}
	}
}

// Topics of the configuration that are forbidden are exit code 2 with the key; so
// are the connector's own for rows.
func TestForbiddenTopics(t *testing.T) {
	o := outboxd(t, "run", "--config", write(t, good+"route: {topic: _schemas}\n"))
	if o.code != exitUsage || !strings.Contains(o.stderr, "outboxd.yaml:6: route.topic: is forbidden") {
		t.Errorf("exit code %d: %s", o.code, o.stderr)
	}
	cfg, err := config.Load(write(t, good+"route: {topic: '{type}'}\ndelivery: {topic: places}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := rules(cfg)
	if r.Reserved["places"] != "delivery.topic" || r.Reserved["outbox.dead-letter"] != "errors.dead_letter_topic" || !slices.Equal(r.Forbidden, []string{"_*"}) {
		t.Errorf("%+v", r)
	}
}
