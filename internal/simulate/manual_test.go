package simulate

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The commands of the manual are there, with the variables that it names.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../../docs/simulation.md")
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile(`(?m)^make ([a-z-]+)((?: [A-Z]+=[0-9]+)*)`).FindAllStringSubmatch(string(page), -1)
	if len(commands) < 4 {
		t.Fatalf("the page has %d commands", len(commands))
	}
	for _, c := range commands {
		if !regexp.MustCompile(`(?m)^` + c[1] + `:`).Match(makefile) {
			t.Errorf("%s: there is no such target", c[0])
		}
		for _, variable := range strings.Fields(c[2]) {
			name, _, _ := strings.Cut(variable, "=")
			if !strings.Contains(string(makefile), "$("+name+")") {
				t.Errorf("%s: %s is not used", c[0], name)
			}
		}
	}
}
