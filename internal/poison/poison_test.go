package poison

import (
	"errors"
	"fmt"
	"testing"
)

func TestKinds(t *testing.T) {
	seen := make(map[Kind]bool)
	for _, k := range Kinds {
		if seen[k] || k == "" {
			t.Errorf("%q comes twice, or is empty", k)
		}
		seen[k] = true
	}
	cause := errors.New("cause")
	err := fmt.Errorf("event: %w", TooLarge.Mark(fmt.Errorf("large: %w", cause)))
	if Of(err) != TooLarge || !errors.Is(err, cause) || err.Error() != "event: large: cause" {
		t.Errorf("%v of kind %q", err, Of(err))
	}
	if Of(Refused.Mark(err)) != Refused {
		t.Error("the last mark does not count")
	}
	if Of(cause) != "" || Of(nil) != "" || TooLarge.Mark(nil) != nil {
		t.Error("an error without a mark has one")
	}
}
