// Package consumerlag watches how far consumer groups are behind on the topics that
// events are published to. It reads what groups have committed, is in none, and changes
// nothing.
package consumerlag

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/remedy"
)

const (
	// every is how often the groups are asked about: three requests or four for all of
	// them to each broker, however many topics there are.
	every = 15 * time.Second
	// limit bounds a round.
	limit = 20 * time.Second
	// soon is when a process that has begun to stream asks first.
	soon = time.Second
	// maxTopics bounds the topics of a round.
	maxTopics = 1_000
)

// Options say whom to watch.
type Options struct {
	Groups []string
	// Topics are those that are known without an event, Templates those of route whose
	// names depend on it, such as "outbox.event.{type}".
	Topics, Templates []string
	// Published are topics that events have been published to.
	Published func() []string
	// Streaming reports whether this process delivers; if not, another one watches.
	Streaming func() bool
	// Client are the options of a client of the cluster.
	Client []kgo.Opt
	// Report is told each round's result, nil for nothing known.
	Report func([]Lag)
	Log    zerolog.Logger
}

// Lag is how many records a group has yet to read of a topic; or, without a topic, why
// that is not known of the group.
type Lag struct {
	Group   string
	Topic   string
	Records int64
	Error   string
}

// Watcher belongs to the goroutine of Run.
type Watcher struct {
	o       Options
	matches []*regexp.Regexp
	client  *kgo.Client
	admin   *kadm.Client
	said    map[string]string // of each group, topic or "": what the log said last
}

// New returns a watcher that is not running.
func New(o Options) *Watcher {
	w := &Watcher{o: o, said: make(map[string]string)}
	for _, template := range o.Templates {
		if m := match(template); m != nil {
			w.matches = append(w.matches, m)
		}
	}
	return w
}

var variable = regexp.MustCompile(`\{[^}]*\}`)

// match finds the topics of a template; nil for one without any text of its own, of
// which every topic would be.
func match(template string) *regexp.Regexp {
	parts := variable.Split(template, -1)
	if strings.Join(parts, "") == "" {
		return nil
	}
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".+") + "$")
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	client, err := kgo.NewClient(w.o.Client...)
	if err != nil {
		return fmt.Errorf("configure the client that reads consumer groups: %w", err)
	}
	defer client.Close()
	w.client, w.admin = client, kadm.NewClient(client)
	for wait := soon; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if wait = soon; !w.o.Streaming() {
			w.o.Report(nil)
			continue
		}
		asked, cancel := context.WithTimeout(ctx, limit)
		lags, err := w.round(asked)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			lags = []Lag{{Error: err.Error()}}
		}
		w.say("", err)
		w.o.Report(lags)
		wait = every
	}
}

// round asks once. Its error is about all groups.
func (w *Watcher) round(ctx context.Context) ([]Lag, error) {
	topics := make(map[string]bool)
	for _, name := range slices.Concat(w.o.Topics, w.o.Published()) {
		topics[name] = true
	}
	var lags []Lag
	committed := make(map[string]kadm.OffsetResponses)
	for _, answer := range w.admin.FetchManyOffsets(ctx, w.o.Groups...) {
		why := answer.Err
		if why == nil && len(answer.Fetched) == 0 || errors.Is(why, kerr.GroupIDNotFound) {
			why = errors.New("it does not exist or has read nothing yet; see that monitor.consumer_groups has its name")
		} else if errors.Is(why, kerr.GroupAuthorizationFailed) {
			why = errors.New("no right to Describe the group; grant it")
		}
		w.say(answer.Group, why)
		if why != nil {
			lags = append(lags, Lag{Group: answer.Group, Error: why.Error()})
			continue
		}
		committed[answer.Group] = answer.Fetched
		for topic := range answer.Fetched {
			if slices.ContainsFunc(w.matches, func(m *regexp.Regexp) bool { return m.MatchString(topic) }) {
				topics[topic] = true
			}
		}
	}
	maps.DeleteFunc(topics, func(topic string, _ bool) bool {
		return !slices.ContainsFunc(slices.Collect(maps.Values(committed)), func(offsets kadm.OffsetResponses) bool { return offsets[topic] != nil })
	})
	names := slices.Sorted(maps.Keys(topics))
	if len(names) > maxTopics {
		w.say("topics", fmt.Errorf("the groups read %d topics; the lag is shown of the first %d by name", len(names), maxTopics))
		names = names[:maxTopics]
	}
	names, err := w.readable(ctx, names)
	if err != nil || len(names) == 0 {
		return sorted(lags), err
	}
	ends, err := w.admin.ListEndOffsets(ctx, names...)
	if err != nil && len(ends) == 0 {
		return nil, fmt.Errorf("read the topics' ends: %w%s", err, remedy.Kafka(err))
	}
	starts, err := w.starts(ctx, names, ends, committed)
	if err != nil {
		return nil, err
	}
	for group, offsets := range committed {
		for _, topic := range names {
			if offsets[topic] != nil {
				if records, known := behind(offsets[topic], ends[topic], starts[topic]); known {
					lags = append(lags, Lag{Group: group, Topic: topic, Records: records})
				}
			}
		}
	}
	return sorted(lags), nil
}

// readable leaves out the topics that are not there, and those without the right to
// them. Unlike the admin client's own question, this one makes no error of one topic an
// error of all.
func (w *Watcher) readable(ctx context.Context, names []string) ([]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	for _, name := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &name
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, w.client)
	if err != nil {
		return nil, fmt.Errorf("ask about the topics: %w%s", err, remedy.Kafka(err))
	}
	names = nil
	for _, t := range resp.Topics {
		switch err := kerr.ErrorForCode(t.ErrorCode); {
		case t.Topic == nil:
		case errors.Is(err, kerr.TopicAuthorizationFailed):
			w.say("topic "+*t.Topic, fmt.Errorf("no right to topic %q; grant Describe", *t.Topic))
		case err == nil:
			names = append(names, *t.Topic)
		}
	}
	return names, nil
}

// starts returns where the partitions begin of which a group has committed nothing, all
// of whose records it has yet to read.
func (w *Watcher) starts(ctx context.Context, names []string, ends kadm.ListedOffsets, committed map[string]kadm.OffsetResponses) (kadm.ListedOffsets, error) {
	var ask []string
	for _, topic := range names {
		for _, offsets := range committed {
			if offsets[topic] != nil && len(offsets[topic]) < len(ends[topic]) {
				ask = append(ask, topic)
				break
			}
		}
	}
	if len(ask) == 0 {
		return nil, nil
	}
	starts, err := w.admin.ListStartOffsets(ctx, ask...)
	if err != nil && len(starts) == 0 {
		return nil, fmt.Errorf("read the topics' beginnings: %w%s", err, remedy.Kafka(err))
	}
	return starts, nil
}

// behind counts the records of a topic between what a group has committed and the end.
// It is not known if that of a partition is not.
func behind(committed map[int32]kadm.OffsetResponse, ends, starts map[int32]kadm.ListedOffset) (records int64, known bool) {
	for partition, end := range ends {
		if end.Err != nil || partition < 0 {
			return 0, false
		}
		at := int64(-1)
		if c, ok := committed[partition]; ok && c.Err == nil {
			at = c.At
		}
		if at < 0 {
			start, ok := starts[partition]
			if !ok || start.Err != nil {
				return 0, false
			}
			at = start.Offset
		}
		records += max(end.Offset-at, 0) // a topic that was recreated may end before
	}
	return records, len(ends) > 0
}

// say logs why something is not known, and that it is again: once each.
func (w *Watcher) say(about string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if was := w.said[about]; was == text {
		return
	}
	w.said[about] = text
	switch {
	case err == nil:
		w.o.Log.Info().Str("group", about).Msg("the lag of consumer groups is known again")
	case about == "" || strings.HasPrefix(about, "topic"):
		w.o.Log.Warn().Err(err).Msg("the lag of consumer groups is not known (monitor.consumer_groups)")
	default:
		w.o.Log.Warn().Err(err).Str("group", about).Msg("the lag of a consumer group is not known (monitor.consumer_groups)")
	}
}

func sorted(lags []Lag) []Lag {
	slices.SortFunc(lags, func(a, b Lag) int { return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Topic, b.Topic)) })
	return lags
}
