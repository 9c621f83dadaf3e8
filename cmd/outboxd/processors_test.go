package main

import "testing"

func TestProcessors(t *testing.T) {
	for _, test := range []struct {
		now       int
		usage     float64
		available int
		want      int
	}{
		{1, 0.02, 8, 1},
		{1, 0.84, 8, 1},
		{1, 0.86, 8, 4},
		{1, 0.99, 2, 2},
		{1, 0.99, 1, 1},
		{4, 2.5, 8, 4},
		{4, 0.7, 8, 4}, // no going to and fro
		{4, 0.59, 8, 1},
	} {
		if got := processors(test.now, test.usage, test.available); got != test.want {
			t.Errorf("%+v: %d", test, got)
		}
	}
}
