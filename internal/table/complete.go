package table

import (
	"net/url"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/replication"
)

// Complete returns the table with what the database's catalog says of it, and the same
// for its formats.
func Complete(t decoder.Table, catalog replication.Catalog) (decoder.Table, format.Outbox) {
	t.Domains = catalog.Domains
	t.Types = make(map[string]uint32)
	for name, a := range catalog.Attributes {
		t.Types[name] = decoder.TypeOIDs[a.Type]
	}
	o := format.Outbox{
		Source:     []byte("/" + url.PathEscape(catalog.Database) + "/" + url.PathEscape(t.Schema) + "." + url.PathEscape(t.Name)),
		Attributes: make(format.Attributes, len(t.Columns)),
	}
	for f, column := range t.Columns {
		known, ok := catalog.Attributes[column.Name]
		if o.Attributes[f] = (format.Attribute{NotNull: known.NotNull, Modifier: known.Modifier}); !ok {
			o.Attributes[f].Modifier = -1
		}
	}
	return t, o
}
