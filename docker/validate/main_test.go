package validate

import (
	"fmt"
	"os"
	"testing"
)

// temporary holds what several tests share.
var temporary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if temporary, err = os.MkdirTemp("", "outboxd-docker-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(temporary)
		return m.Run()
	}())
}
