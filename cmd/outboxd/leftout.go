package main

import (
	"github.com/rs/zerolog"

	"outboxd/decoder"
	"outboxd/internal/format"
)

// maxNamesLeftOut bounds the warnings against rows that think of new names.
const maxNamesLeftOut = 10

// warnLeftOut warns once of each name that is left out of outbox.headers_column.
func warnLeftOut(log zerolog.Logger) format.LeftOut {
	warned := make(map[string]bool)
	return func(ev *decoder.Event, name string) {
		if warned[name] || len(warned) == maxNamesLeftOut {
			return
		}
		warned[name] = true
		log.Warn().Str("header", decoder.Cut(name)).Str("event_id", decoder.Cut(string(ev.Values[decoder.ID]))).Stringer("position", ev.Position).
			Msg("a member of outbox.headers_column has the name of a header of outboxd itself, or of outbox.headers: it is left out, here and in every other event; write it under another name")
	}
}
