package main

import (
	"crypto/tls"
	"fmt"
	"maps"
	"slices"

	"github.com/rs/zerolog"

	"outboxd/decoder"
	"outboxd/internal/config"
	"outboxd/internal/format"
	"outboxd/internal/format/avro"
	"outboxd/internal/format/cloudevents"
	"outboxd/internal/format/debezium"
	"outboxd/internal/format/json"
	"outboxd/internal/mask"
	"outboxd/internal/record"
	"outboxd/internal/status"
)

// formats are the formats by their names in value.format, each with what it makes of the
// configuration. A new one is a folder in internal/format and a line here.
var formats = map[string]func(*formatWiring, *format.Options) error{
	"raw":  func(*formatWiring, *format.Options) error { return nil },
	"json": func(_ *formatWiring, o *format.Options) error { o.Format = json.Format{}; return nil },
	"cloudevents": func(_ *formatWiring, o *format.Options) error {
		o.Format, o.ContentType = cloudevents.Format{}, cloudevents.ContentType
		return nil
	},
	"avro":     useAvro,
	"debezium": useDebezium,
}

// headers are the headers by their names in value.headers. Format debezium has its own
// of that name.
var headers = map[string]format.Headers{
	"plain": format.Plain, "cloudevents": cloudevents.Headers{}, "debezium": debezium.IDHeader, "none": format.None,
}

// clocks are where a record's time is from, by the names in value.timestamp.
var clocks = map[string]record.Clock{"commit": record.CommitTime, "column": record.BusinessTime, "now": record.SendTime}

// formatWiring is what a format may need.
type formatWiring struct {
	cfg  *config.Config
	read columns
	st   *status.Status
	log  zerolog.Logger
}

// formatOptions returns how records are written. What is wrong is reported.
func formatOptions(w *formatWiring, report func(string, error)) format.Options {
	cfg := w.cfg
	o := format.Options{
		Headers:          headers[cfg.Value.Headers],
		Object:           decoder.NoField,
		OnLeftOut:        warnLeftOut(w.log),
		NullIsError:      cfg.Value.NullPayload == "error",
		EmptyIsTombstone: cfg.Value.EmptyIsTombstone,
		Schemas:          payloadSchemas(cfg.Value.Schema, report),
		Mask:             payloadMask(cfg, w.st, report),
		Clock:            clocks[cfg.Value.Timestamp],
	}
	if name := cfg.Outbox.HeadersColumn; name != "" {
		o.Object = w.read.field(name, "")
	}
	for _, h := range cfg.Outbox.Headers {
		o.Columns = append(o.Columns, format.ColumnHeader{Key: h.Name, Field: w.read.field(h.Value, "")})
	}
	report("value."+cfg.Value.Format, formats[cfg.Value.Format](w, &o))
	return o
}

// payloadSchemas loads the JSON Schemas.
func payloadSchemas(files map[string]string, report func(string, error)) format.Schemas {
	if len(files) == 0 {
		return nil
	}
	schemas := make(format.Schemas)
	for _, eventType := range slices.Sorted(maps.Keys(files)) {
		schema, err := format.LoadSchema(files[eventType])
		report("value.schema."+eventType, err)
		schemas[eventType] = schema
	}
	return schemas
}

// payloadMask returns what makes a masker by the keys as they are then; nil without
// value.mask.
func payloadMask(cfg *config.Config, st *status.Status, report func(string, error)) func() (*mask.Masker, error) {
	if len(cfg.Value.Mask) == 0 {
		return nil
	}
	for _, m := range cfg.Value.Mask {
		st.UseMask(m.Path)
	}
	open := func() (*mask.Masker, error) {
		var rules []mask.Rule
		for _, m := range cfg.Value.Mask {
			r := mask.Rule{Path: m.Path, How: mask.How(m.How)}
			if m.Key != "" {
				name := "value.keys." + m.Key
				text, err := current(name, cfg.Value.Keys[m.Key])
				if err != nil {
					return nil, err
				}
				if r.Key, err = mask.NewKey(text); err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
			}
			rules = append(rules, r)
		}
		return mask.New(rules, st.Unmasked)
	}
	_, err := open()
	report("value.mask", err)
	return open
}

// useAvro is for format avro.
func useAvro(w *formatWiring, o *format.Options) (err error) {
	a := w.cfg.Value.Avro
	options := avro.Options{
		Registry:     a.Registry.Reveal(),
		Username:     a.Username,
		ReadPassword: a.Password.Current,
		Subject:      a.Subject,
		BySchema:     a.Payload == "schema",
		Register:     a.Register,
		Log:          w.log,
		OnAnswer:     w.st.RegistryAnswered,
	}
	if !a.Token.IsEmpty() {
		options.ReadToken = a.Token.Current
	}
	if a.TLS.Enabled {
		options.ReadTLS = func() (*tls.Config, error) { return readTLS("value.avro.tls", a.TLS) }
	}
	w.st.UseRegistry()
	if o.Format, err = avro.New(options); err != nil {
		o.Format = nil
	}
	return err
}
