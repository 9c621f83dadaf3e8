package republish

import (
	"testing"

	"outboxd/internal/leak"
)

// TestMain holds the tests to it that what they start ends.
func TestMain(m *testing.M) { leak.Main(m, "outboxd/") }
