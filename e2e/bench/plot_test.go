package main

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "draw docs/pictures/catch-up.svg from docs/benchmarks.md")

const picture = "../../docs/pictures/catch-up.svg"

// inPicture are the rows of the table of catch-ups that README shows, by how the
// first cell begins, and their names.
var inPicture = []struct{ begins, name string }{
	{"outboxd", "outboxd"},
	{"[Debezium 3.7 on Kafka Connect, tuned]", "Debezium 3.7, tuned"},
	{"[Debezium 3.7, default configuration]", "Debezium 3.7, defaults"},
}

// README's plot has the numbers of the table in docs/benchmarks.md.
func TestPlotOfTheReadme(t *testing.T) {
	benchmarks := read(t, "../../docs/benchmarks.md")
	_, table, found := strings.Cut(benchmarks, "\n| catch-up | events/s")
	if !found {
		t.Fatal("docs/benchmarks.md has no table of catch-ups")
	}
	panels := []panel{{title: "events a second"}, {title: "CPU seconds a million events"}}
	for _, row := range inPicture {
		_, line, found := strings.Cut(table, "\n| "+row.begins)
		line, _, _ = strings.Cut(line, "\n")
		cells := strings.Split(line, "|")
		if !found || len(cells) != 6 {
			t.Fatalf("the table has no row %q of five cells: %q", row.begins, line)
		}
		for i, cell := range []int{1, 3} {
			panels[i].bars = append(panels[i].bars, bar{row.name, leading(t, cells[cell])})
		}
	}
	drawn := filepath.Join(t.TempDir(), "catch-up.svg")
	if err := writePlot(drawn, "catch-up in 100-row transactions, 300-byte payloads, two cores", panels); err != nil {
		t.Fatal(err)
	}
	want := read(t, drawn)
	if *update {
		if err := os.WriteFile(picture, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if read(t, picture) != want {
		t.Error("docs/pictures/catch-up.svg is stale; run: go -C e2e test ./bench -run TestPlotOfTheReadme -update")
	}
	// It holds the table's numbers as text.
	for _, p := range panels {
		for _, b := range p.bars {
			if b.value == 0 || !strings.Contains(want, ">"+number(b.value)+"</text>") {
				t.Errorf("%s, %s: the plot does not say %s", p.title, b.name, number(b.value))
			}
		}
	}
}

// Every number of README's table of performance is one of docs/benchmarks.md.
func TestNumbersOfTheReadme(t *testing.T) {
	benchmarks := read(t, "../../docs/benchmarks.md")
	_, section, _ := strings.Cut(read(t, "../../README.md"), "\n## Performance\n")
	section, _, _ = strings.Cut(section, "\n## ")
	found := 0
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || strings.HasPrefix(line, "| |") || strings.HasPrefix(line, "|---") {
			continue
		}
		for _, cell := range cells[2:5] {
			for _, value := range regexp.MustCompile(`[\d,]*\d(\.\d+)?( (ms|MiB))?`).FindAllString(cell, -1) {
				found++
				if !strings.Contains(benchmarks, " "+value) {
					t.Errorf("%s is not in docs/benchmarks.md: %s", value, line)
				}
			}
		}
	}
	if found < 12 {
		t.Errorf("only %d numbers were found", found)
	}
}

// leading is the number that a cell begins with.
func leading(t *testing.T, cell string) float64 {
	t.Helper()
	text, _, _ := strings.Cut(strings.TrimSpace(cell), " ")
	value, err := strconv.ParseFloat(strings.ReplaceAll(text, ",", ""), 64)
	if err != nil {
		t.Fatalf("%q begins with no number", cell)
	}
	return value
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
