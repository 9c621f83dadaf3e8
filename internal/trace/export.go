package trace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// tracesURL is where spans are posted to: the endpoint is a base, as that of
// OTEL_EXPORTER_OTLP_ENDPOINT, unless it has the whole path.
func tracesURL(endpoint string) (address, host string) {
	const path = "/v1/traces"
	address = strings.TrimSuffix(strings.TrimRight(endpoint, "/"), path) + path
	if u, err := url.Parse(address); err == nil {
		host = u.Host
	}
	return address, host
}

func newClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	return &http.Client{
		Transport: transport,
		// Behind a redirect a POST becomes a GET, which somebody may answer with 200.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Pauses between attempts to send a batch that the collector did not take: they double.
const (
	minPause = time.Second
	maxPause = 30 * time.Second
)

// Run sends spans until ctx ends, and then those that are left, for Options.Flush at most
// and not after the end of hurry. A batch is tried again as long as the collector cannot
// be reached or asks for it; what does not fit into the queue meanwhile is dropped.
func (t *Tracer) Run(ctx, hurry context.Context) {
	defer t.client.CloseIdleConnections()
	sending, cancel := context.WithCancel(hurry)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(t.o.Flush, cancel) })()
	left := int64(0)
	for {
		batch, last := t.collect(ctx)
		if len(batch) > 0 && !t.deliver(ctx, sending, batch) && ctx.Err() != nil {
			left += int64(len(batch))
		}
		if last {
			break
		}
	}
	if left > 0 {
		t.o.Log.Warn().Int64("spans", left).Err(t.failed).Msg("spans that were left at the stop are dropped (monitor.trace.endpoint)")
	}
}

// collect returns the next batch: what comes within Options.Every after the first span.
// After the end of ctx it does not wait, and tells which batch is the last.
func (t *Tracer) collect(ctx context.Context) (batch []*span, last bool) {
	var due <-chan time.Time
	for len(batch) < batchLength {
		select {
		case s := <-t.queue:
			batch = append(batch, s)
			if due == nil {
				due = time.After(t.o.Every)
			}
			continue
		default:
		}
		select {
		case s := <-t.queue:
			batch = append(batch, s)
			if due == nil {
				due = time.After(t.o.Every)
			}
		case <-due:
			return batch, false
		case <-ctx.Done():
			return batch, len(t.queue) == 0
		}
	}
	return batch, false
}

// deliver sends a batch. It reports whether the collector has taken it.
func (t *Tracer) deliver(ctx, sending context.Context, batch []*span) bool {
	var body []byte
	err := errStop
	if sending.Err() == nil {
		body, err = t.encode(batch)
	}
	for pause := minPause; err == nil; pause = min(2*pause, maxPause) {
		stopping := ctx.Err() != nil // this is the last attempt
		var rejected int64
		if rejected, err = t.post(sending, body); rejected > 0 {
			rejected = min(rejected, int64(len(batch)))
			t.sent.Add(int64(len(batch)) - rejected)
			t.dropped.Add(rejected)
			t.fails(err)
			return true
		}
		if err == nil {
			t.sent.Add(int64(len(batch)))
			t.works()
			return true
		}
		again := (*retryError)(nil)
		if !errors.As(err, &again) || stopping {
			break
		}
		t.fails(err)
		select {
		case <-ctx.Done():
		case <-time.After(max(pause, again.after)):
		}
		err = nil
	}
	t.dropped.Add(int64(len(batch)))
	t.fails(err)
	return false
}

// fails and works log a change of state.
func (t *Tracer) fails(err error) {
	if t.failed == nil {
		t.o.Log.Warn().Str("collector", t.host).Err(err).Msg("spans are not sent (monitor.trace.endpoint); events are delivered all the same")
	}
	t.failed = err
}

func (t *Tracer) works() {
	if t.failed != nil {
		t.o.Log.Info().Str("collector", t.host).Msg("spans are sent again")
	}
	t.failed = nil
}

var errStop = errors.New("the stop does not wait longer")

// retryError is a failure after which the same batch may be sent again.
type retryError struct {
	err   error
	after time.Duration // what the collector asks for
}

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

// post makes one request. An error with rejected spans is about those alone: the others
// were taken.
func (t *Tracer) post(ctx context.Context, body []byte) (rejected int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, t.o.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	request.Header.Set("User-Agent", "outboxd/"+t.o.Version)
	response, err := t.client.Do(request)
	if err != nil {
		if cause := (*url.Error)(nil); errors.As(err, &cause) {
			err = cause.Err // without the URL
		}
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			err = fmt.Errorf("no answer within %s", t.o.Timeout)
		case errors.Is(err, context.Canceled):
			err = errStop
		}
		return 0, &retryError{err: err}
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	switch response.StatusCode {
	case http.StatusOK:
		if err != nil {
			return 0, nil // it has the spans
		}
		return refused(response.Header.Get("Content-Type"), answer)
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		return 0, &retryError{fmt.Errorf("the collector answered %s", response.Status), min(time.Duration(max(seconds, 0))*time.Second, maxPause)}
	}
	return 0, fmt.Errorf("the collector answered %s; the endpoint is that of OTLP over HTTP, usually port 4318", response.Status)
}

// refused reads how many spans of a request the collector did not take, and why.
func refused(contentType string, answer []byte) (rejected int64, err error) {
	if !strings.HasPrefix(contentType, "application/x-protobuf") {
		return 0, nil
	}
	var a collector.ExportTraceServiceResponse
	if proto.Unmarshal(answer, &a) != nil {
		return 0, nil
	}
	if n := a.GetPartialSuccess().GetRejectedSpans(); n > 0 {
		return n, fmt.Errorf("the collector rejected %d spans: %.200q", n, a.GetPartialSuccess().GetErrorMessage())
	}
	return 0, nil
}
