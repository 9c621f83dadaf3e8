package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

// instructionBudgets are the machine instructions that a step on an event's way may
// cost, as callgrind counts them on amd64: a few hundredths to a tenth more than it
// does. Times say nothing on a shared machine; instructions hardly vary. Raise a
// budget only for something that is worth it to every event.
var instructionBudgets = []struct {
	pkg, benchmark string
	most           int
}{
	{"decoder", "BenchmarkInsert/json", 650},
	{"router", "BenchmarkRoute", 480},
	// With every field mapped: eleven headers.
	{"internal/format", "BenchmarkEncode/raw", 1820},
	{"internal/format", "BenchmarkEncode/json", 6700},
	{"internal/format", "BenchmarkEncode/cloudevents", 7930},
	{"internal/format/avro", "BenchmarkAvroEnvelope", 6020},
	{"offsets", "BenchmarkTracker/rows=100", 7500}, // a transaction of a hundred
	{"internal/flow", "BenchmarkEvent", 880},       // with decoder and tracker, of a small row
}

func TestInstructions(t *testing.T) {
	t.Parallel() // what is counted does not depend on the load
	if _, err := exec.LookPath("valgrind"); err != nil {
		t.Skip("valgrind is not installed: apt-get install valgrind")
	}
	if raceEnabled {
		t.Skip("the race detector's instructions are not ours")
	}
	for _, b := range instructionBudgets {
		t.Run(b.pkg+"."+b.benchmark, func(t *testing.T) {
			binary := filepath.Join(t.TempDir(), "test")
			build := exec.Command("go", "test", "-c", "-o", binary, "./"+b.pkg)
			build.Dir = ".." // of another module
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			// What starting up costs is in both runs. It varies, by two million where the
			// machine is so busy that the runtime's monitor wakes up often: so the steps
			// cost many times that, and what is over the budget is counted again. What
			// the code itself costs is over it each time.
			n := 40_000_000 / b.most
			var got int
			for range 3 {
				got = (instructions(t, binary, b.benchmark, 2*n) - instructions(t, binary, b.benchmark, n)) / n
				t.Logf("%d instructions", got)
				if got <= b.most {
					return
				}
			}
			t.Errorf("%d instructions, the budget is %d", got, b.most)
		})
	}
}

var collected = regexp.MustCompile(`Collected : (\d+)`)

// instructions counts those of a run with n iterations of a benchmark.
func instructions(t *testing.T, binary, benchmark string, n int) int {
	t.Helper()
	cmd := exec.Command("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", binary,
		"-test.run=^$", "-test.bench="+benchmark+"$", "-test.benchtime="+strconv.Itoa(n)+"x", "-test.cpu=1")
	cmd.Env = append(os.Environ(), "GOGC=off", "GODEBUG=asyncpreemptoff=1") // its signals confuse callgrind
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !bytes.Contains(out, []byte(fmt.Sprintf("%d\t", n))) {
		t.Fatalf("the benchmark did not run:\n%s", out)
	}
	m := collected.FindSubmatch(out)
	if m == nil {
		t.Fatalf("valgrind does not say how many:\n%s", out)
	}
	count, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return count
}
