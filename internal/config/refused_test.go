package config

import (
	"strings"
	"testing"
)

func TestForbiddenTopicsOfTheConfiguration(t *testing.T) {
	for _, test := range []struct {
		route string
		says  string // "": it is allowed
	}{
		{"topic: _schemas", `outboxd.yaml:4: route.topic: is forbidden by "_*" in route.forbidden`},
		{"topic: __x\n  forbidden: []", "route.topic: begins with __"},
		{"topic: '__x.{type}'\n  forbidden: []", "route.topic: begins with __"},
		{"topic: '_x.{type}'", `route.topic: is forbidden by "_*" in route.forbidden`},
		{"topic: outboxd.positions", "route.topic: is the topic of delivery.topic"},
		{"topic: outbox.dead-letter", "route.topic: is the topic of errors.dead_letter_topic"},
		{"topic: orders\nerrors: {dead_letter_topic: orders}", "route.topic: is the topic of errors.dead_letter_topic"},
		{"rules: [{type: a, topic: orders}]\nerrors: {dead_letter_topic: orders}", "route.rules[0].topic: is the topic of errors.dead_letter_topic"},
		{"topic: a\nerrors: {dead_letter_topic: outboxd.positions}", "errors.dead_letter_topic: is the topic of delivery.topic"},
		{"topic: a.b\n  forbidden: ['c', 'a.?']", `route.topic: is forbidden by "a.?" in route.forbidden`},
		{"topic: 'a.{type}'\n  forbidden: ['*']", `route.topic: is forbidden by "*" in route.forbidden`},
		{"topic: a\n  rules:\n    - {type: x, topic: b}\n    - {type: x, topic: _b}", `outboxd.yaml:7: route.rules[1].topic: is forbidden by "_*" in route.forbidden`},
		{"topic: a\n  rules:\n    - {type: x, topic: ''}", ""},
		{"topic: _schemas\n  forbidden: []", ""},
		{"topic: 'outboxd.positions{type}'", ""},
		{"topic: '{type}_'", ""},
		{"topic: 'a.{type}'\n  forbidden: ['a.b', 'a.b*', '?a*']", ""},
		{"topic: __x\n  regex: {column: topic}", ""}, // not used
		{"topic: a\n  forbidden: ['[a]']", "route.forbidden[0]: \"[a]\" is not a pattern"},
	} {
		_, err := loadText(given + "route:\n  " + test.route)
		if (test.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v\nwant %s", test.route, err, test.says)
		}
	}
	if c := mustLoad(t, given); len(c.Route.Forbidden) != 1 || c.Route.Forbidden[0] != "_*" {
		t.Errorf("the default is %q", c.Route.Forbidden)
	}
	if c := mustLoad(t, given+"route: {forbidden: []}"); len(c.Route.Forbidden) != 0 {
		t.Errorf("none is %q", c.Route.Forbidden)
	}
	if c := mustLoad(t, given, "OUTBOXD_ROUTE_FORBIDDEN="); len(c.Route.Forbidden) != 0 {
		t.Errorf("none by the environment is %q", c.Route.Forbidden)
	}
}

func TestHeadersOfOutboxdItself(t *testing.T) {
	for _, test := range []struct {
		headers, value string
		says           string // "": it is allowed
	}{
		{"{a: b, position: type}", "", "outboxd.yaml:3: outbox.headers.position: is a header of value.headers plain itself"},
		{"\n  a: b\n  id: c", "", "outboxd.yaml:6: outbox.headers.id: "},
		{"{traceparent: tp}", "", "outbox.columns.traceparent"},
		{"{replayed: a}", "{headers: debezium}", "outbox.headers.replayed: is a header that outboxd adds"},
		{"{dead_letter_retry: a}", "", "outbox.headers.dead_letter_retry"},
		{"{error.kind: a}", "", "outbox.headers.error.kind"},
		{"{__connect.errors.topic: a}", "", "outbox.headers.__connect.errors.topic"},
		{"{ce_id: a}", "{headers: cloudevents}", "outbox.headers.ce_id"},
		{"{content-type: a}", "{headers: cloudevents}", "outbox.headers.content-type"},
		{"{content-type: a}", "{format: cloudevents}", "outbox.headers.content-type"},
		{"{id: a}", "{headers: debezium}", "outbox.headers.id"},
		{"{id: a}", "{format: debezium, headers: debezium}", "outbox.headers.id"},
		{"{position: a, type: b, traceparent: c}", "{headers: debezium}", ""},
		{"{content-type: a, ce_id: b, errors: c, errork: d}", "", ""},
		{"{ce_tenant: a, id: b}", "{headers: cloudevents}", ""},
	} {
		text := given + "outbox:\n headers: " + test.headers + "\n"
		if test.headers[0] == '{' {
			text = given + "outbox: {headers: " + test.headers + "}\n"
		}
		if test.value != "" {
			text += "value: " + test.value
		}
		_, err := loadText(text)
		if (test.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s, %s: %v\nwant %s", test.headers, test.value, err, test.says)
		}
	}
}
