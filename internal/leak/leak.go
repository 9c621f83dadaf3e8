// Package leak holds tests to it that what they started has ended.
package leak

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Main runs the tests of a package, and fails if goroutines in code of these prefixes
// (such as "outboxd/sink.") are left: it is TestMain.
func Main(m *testing.M, prefixes ...string) {
	code := m.Run()
	if left := Running(5*time.Second, prefixes...); code == 0 && left != "" {
		fmt.Println("goroutines that the tests have left:\n" + left)
		code = 1
	}
	os.Exit(code)
}

// Running returns the stacks of goroutines in code of these prefixes, after some time
// for those that are about to end.
func Running(within time.Duration, prefixes ...string) (left string) {
	buf := make([]byte, 16<<20)
	for end := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		left = ""
		for i, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			// The first is this one.
			for _, prefix := range prefixes {
				if i > 0 && strings.Contains(stack, "\n"+prefix) {
					left += stack + "\n\n"
					break
				}
			}
		}
		if left == "" || !time.Now().Before(end) {
			return left
		}
	}
}
