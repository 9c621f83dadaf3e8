package main

import (
	"context"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"outboxd/internal/config"
	"outboxd/internal/consumerlag"
	"outboxd/internal/status"
	"outboxd/internal/trace"
	"outboxd/sink"
)

// topicsOf are the topics that are known without a row, and the templates of those that
// depend on it.
func topicsOf(cfg *config.Config) (topics, templates []string) {
	all := []string{cfg.Route.Topic}
	for _, rule := range cfg.Route.Rules {
		all = append(all, rule.Topic)
	}
	for _, topic := range all {
		switch {
		case topic == "" || slices.Contains(topics, topic) || slices.Contains(templates, topic):
		case cfg.Route.Regex.Column != "" && topic == cfg.Route.Topic:
			templates = append(templates, "{"+cfg.Route.Regex.Column+"}")
		case strings.Contains(topic, "{"):
			templates = append(templates, topic)
		default:
			topics = append(topics, topic)
		}
	}
	return topics, templates
}

// watchGroups watches the lag of monitor.consumer_groups until ctx ends.
func watchGroups(ctx context.Context, cfg *config.Config, kafka sink.Options, st *status.Status, log zerolog.Logger) {
	st.WatchLag()
	topics, templates := topicsOf(cfg)
	watcher := consumerlag.New(consumerlag.Options{
		Groups: cfg.Monitor.ConsumerGroups, Topics: topics, Templates: templates,
		Published: st.PublishedTopics,
		Streaming: func() bool { return st.Role() == status.Streaming },
		Client:    kafka.Connection(),
		Log:       log,
		Report: func(lags []consumerlag.Lag) {
			var reports []status.LagReport
			for _, l := range lags {
				reports = append(reports, status.LagReport(l))
			}
			st.Lag(reports)
		},
	})
	if err := watcher.Run(ctx); err != nil {
		log.Error().Err(err).Msg("the lag of consumer groups is not watched")
	}
}

// traceRecords lets the sink make spans, and returns who sends them; nil: nobody wants them.
func traceRecords(cfg *config.Config, kafka *sink.Options, st *status.Status, log zerolog.Logger) *trace.Tracer {
	t := newTracer(cfg, log)
	if t == nil {
		return nil
	}
	kafka.Trace = t.Sent
	st.UseTraces(t.Counts)
	return t
}

// newTracer returns what sends spans to the collector of the configuration, nil for none.
func newTracer(cfg *config.Config, log zerolog.Logger) *trace.Tracer {
	endpoint := cfg.Monitor.Trace.Endpoint
	if endpoint.IsEmpty() {
		return nil
	}
	return trace.New(trace.Options{
		Endpoint: endpoint.Reveal(), Version: version, Slot: cfg.Postgres.Slot, ClientID: cfg.Kafka.ClientID,
		InValue: cfg.Value.Format == "cloudevents", Log: log,
	})
}
