package replication

import (
	"context"
	"fmt"
	"regexp"
	"strings"
)

// syncQuantity is what may stand before the names in synchronous_standby_names.
var syncQuantity = regexp.MustCompile(`(?is)^\s*(?:(?:FIRST|ANY)\s+)?\d+\s*\((.*)\)\s*$`)

// SynchronousStandby reports whether a setting of synchronous_standby_names lets a
// stream of this application_name be a synchronous standby: then commits wait until
// outboxd has confirmed them, which is when Kafka has. It compares as PostgreSQL
// does, and so says what pg_stat_replication.sync_state would, which a role without
// pg_read_all_stats may not see.
func SynchronousStandby(names, application string) bool {
	if m := syncQuantity.FindStringSubmatch(names); m != nil {
		names = m[1]
	}
	// The server cuts a name that is longer than an identifier can be.
	application = application[:min(len(application), 63)]
	for _, name := range splitNames(names) {
		if name == "*" || strings.EqualFold(name, application) {
			return true
		}
	}
	return false
}

// splitNames splits a list of identifiers, which may be quoted.
func splitNames(list string) (names []string) {
	var name strings.Builder
	quoted := false
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == '"' && quoted && i+1 < len(list) && list[i+1] == '"':
			name.WriteByte(c)
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			names = append(names, name.String())
			name.Reset()
		case !quoted && strings.IndexByte(" \t\r\n\f", c) >= 0:
		default:
			name.WriteByte(c)
		}
	}
	return append(names, name.String())
}

// Synchronous returns, where commits of the database wait for outboxd, a sentence
// that says so and what to do; otherwise "".
func (c *Conn) Synchronous(ctx context.Context) (string, error) {
	if c.standby {
		return "", nil // it is a primary's setting
	}
	row, err := c.row(ctx, "SELECT current_setting('synchronous_standby_names')")
	if err != nil {
		return "", fmt.Errorf("read synchronous_standby_names: %w", err)
	}
	return synchronous(row[0], c.application), nil
}

// synchronous is the sentence of Synchronous for a setting of synchronous_standby_names.
func synchronous(names, application string) string {
	if !SynchronousStandby(names, application) {
		return ""
	}
	return fmt.Sprintf("synchronous_standby_names = '%s' makes outboxd a synchronous standby: commits of the whole server can wait until Kafka has acknowledged, "+
		"and for ever when Kafka is down; name the real standbys there, and not application_name %q", names, application)
}

// warnSynchronous logs what Synchronous says.
func (c *Conn) warnSynchronous(ctx context.Context) error {
	warning, err := c.Synchronous(ctx)
	if err == nil && warning != "" && c.o.Shared.once(warning) {
		c.o.Log.Warn().Msg(warning)
	}
	return err
}
