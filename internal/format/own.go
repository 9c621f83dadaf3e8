package format

import (
	"strings"

	"outboxd/decoder"
)

// A consumer has to be able to trust the headers that outboxd itself writes, also
// where a name repeats: some take the first of a name, some the last. A row therefore
// gives none of these names, mapped or not. The configuration refuses them for
// outbox.headers (internal/config); from outbox.headers_column they are left out.

// OwnHeaders are names of headers that no row gives, whatever the style, and
// OwnPrefixes what such names begin with: those of records that are replayed, set
// aside as dead letters, or taken from there.
var (
	OwnHeaders  = []string{"replayed", "dead_letter_retry"}
	OwnPrefixes = []string{"error.", "__connect.errors.", "__debezium.context."}
)

// OwnNames returns the names of headers that records of these options may have from
// outboxd itself, and those of outbox.headers, in whose place no member of
// outbox.headers_column comes either.
func (o *Options) OwnNames() map[string]bool {
	headers := o.Headers
	if headers == nil {
		headers = Plain
	}
	own := make(map[string]bool)
	for _, name := range headers.Own() {
		own[name] = true
	}
	for _, name := range OwnHeaders {
		own[name] = true
	}
	if o.ContentType != "" {
		own[ContentTypeHeader] = true
	}
	for _, h := range o.Columns {
		own[h.Key] = true
	}
	return own
}

// isOwn tells a name that is not a row's to give.
func (e *Encoder) isOwn(name string) bool {
	if e.own[name] {
		return true
	}
	for _, prefix := range OwnPrefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// LeftOut is called with the name of a member of outbox.headers_column that is left
// out, each time, by the goroutine that encodes.
type LeftOut func(ev *decoder.Event, name string)
