package trace

import (
	"context"
	"fmt"

	"outboxd/internal/finding"
)

// Check asks the collector whether it takes spans, with a request that has none.
func (t *Tracer) Check(ctx context.Context) []finding.Finding {
	const subject = "trace collector"
	defer t.client.CloseIdleConnections()
	if _, err := t.post(ctx, nil); err != nil {
		return []finding.Finding{{Level: finding.Warn, Subject: subject, Text: fmt.Sprintf("%s takes no spans: %v; events are delivered all the same", t.host, err),
			Fix: "name a collector that takes OTLP over HTTP with protobuf by monitor.trace.endpoint, and see that it runs; \"\" turns traces off"}}
	}
	return []finding.Finding{finding.Ok(subject, t.host+" takes spans")}
}
