package config

import (
	"io/fs"
	"strings"
	"testing"
)

// A use that does not need some keys loads without them, and without what they refer
// to; all that is given is still checked.
func TestLoadWithout(t *testing.T) {
	without := []string{"postgres.dsn", "kafka", "http"}
	tests := []struct{ text, err string }{
		{"", ""},
		{"postgres: {slot: orders}", ""},
		{"postgres: {dsn: '${NONE}'}\nkafka: {brokers: '${NONE}', sasl: {mechanism: PLAIN, username: u, password: '${file:/none}'}}\nhttp: {token: '${file:/none}'}", ""},
		{"kafka: {brokers: ['${NONE}', k]}", ""},
		{"postgres: {dsn: ''}\nkafka: {brokers: []}", ""},
		{"postgres: {slot: '${NONE}'}", "the environment variable NONE is not set"},
		{"kafka: {compression: rar}", "outboxd.yaml:1: kafka.compression: rar is not one of"},
		{"postgres: {dsn: 'host=db port=x'}", "postgres.dsn: the value has an invalid port"},
		{"kafka: {broker: k}", "kafka.broker: unknown key"},
	}
	for _, test := range tests {
		c, err := load(DefaultPath, nil, files{DefaultPath: test.text}.read, without...)
		switch {
		case test.err == "" && err != nil, test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: %v", test.text, err)
		case test.err == "" && strings.Contains(test.text, "orders") && c.Postgres.Slot != "orders":
			t.Errorf("%s: %+v", test.text, c)
		}
	}
	// No file: the defaults, where nothing that is missing is needed.
	none := func(path string) ([]byte, error) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	if _, err := load(DefaultPath, nil, none, without...); err != nil {
		t.Errorf("without a file: %v", err)
	}
	if _, err := load("named.yaml", nil, none, without...); err == nil {
		t.Error("a file that was named is not there: no error")
	}
	if _, err := load(DefaultPath, nil, none, "kafka"); err == nil || !strings.Contains(err.Error(), "set OUTBOXD_POSTGRES_DSN") || strings.Contains(err.Error(), "KAFKA") {
		t.Errorf("without a file, and with a DSN needed: %v", err)
	}
}
