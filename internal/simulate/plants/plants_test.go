package main

import "testing"

// Each mistake can be planted in today's code.
func TestPlantsApply(t *testing.T) {
	t.Chdir("../../..")
	for _, p := range plants {
		if _, err := p.overlay(t.TempDir()); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
	}
}
