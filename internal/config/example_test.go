package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestExampleHoldsTheDefaults(t *testing.T) {
	config := mustLoad(t, string(Example))
	want := Default()
	want.Postgres.DSN = config.Postgres.DSN
	want.Kafka.Brokers = []string{"localhost:9092"}
	if !reflect.DeepEqual(config, want) {
		t.Errorf("got  %+v\nwant %+v", config, want)
	}
}

func TestExampleHoldsEveryBuiltKey(t *testing.T) {
	root, err := parse(Example)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	paths(root, "", found)
	for k := range schema().leaves() {
		switch {
		case !k.isUnbuilt() && !found[k.path]:
			t.Errorf("%s is built, but not in the example", k.path)
		case k.isUnbuilt() && found[k.path]:
			t.Errorf("%s is in the example, but not built", k.path)
		}
		for _, word := range k.builtWords() {
			if !k.isUnbuilt() && !strings.Contains(string(Example), word) {
				t.Errorf("%s can be %s, but the example does not say so", k.path, word)
			}
		}
	}
}

// paths collects the keys of a mapping and all below it.
func paths(n *node, prefix string, found map[string]bool) {
	for _, e := range n.entries {
		found[prefix+e.key] = true
		paths(e.value, prefix+e.key+".", found)
	}
}
