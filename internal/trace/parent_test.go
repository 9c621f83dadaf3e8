package trace

import (
	"encoding/hex"
	"strings"
	"testing"
)

const (
	traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	spanID  = "00f067aa0ba902b7"
)

// What is a traceparent is said by W3C Trace Context, section 3.2.
func TestParse(t *testing.T) {
	for _, test := range []struct {
		text        string
		ok, sampled bool
	}{
		{"00-" + traceID + "-" + spanID + "-01", true, true},
		{"00-" + traceID + "-" + spanID + "-00", true, false},
		{"00-" + traceID + "-" + spanID + "-02", true, false},
		{"00-" + traceID + "-" + spanID + "-03", true, true},
		{"00-" + traceID + "-" + spanID + "-ff", true, true},
		{"00-" + traceID + "-" + spanID + "-fe", true, false},
		// Later versions may have more.
		{"01-" + traceID + "-" + spanID + "-01", true, true},
		{"fe-" + traceID + "-" + spanID + "-01-more", true, true},
		{"01-" + traceID + "-" + spanID + "-01more", false, false},
		{"00-" + traceID + "-" + spanID + "-01-more", false, false},
		{"00-" + traceID + "-" + spanID + "-01 ", false, false},
		{" 00-" + traceID + "-" + spanID + "-01", false, false},
		{"ff-" + traceID + "-" + spanID + "-01", false, false},
		{"", false, false},
		{"00", false, false},
		{"00-" + traceID + "-" + spanID, false, false},
		{"00-" + traceID + "-" + spanID + "-1", false, false},
		{"00-" + strings.ToUpper(traceID) + "-" + spanID + "-01", false, false},
		{"00-" + traceID + "-" + strings.ToUpper(spanID) + "-01", false, false},
		{"00-" + traceID + "-" + spanID + "-0G", false, false},
		{"00_" + traceID + "-" + spanID + "-01", false, false},
		{"00-" + strings.Repeat("0", 32) + "-" + spanID + "-01", false, false},
		{"00-" + traceID + "-" + strings.Repeat("0", 16) + "-01", false, false},
		{"00-4bf9-00f0-01", false, false},
	} {
		p, ok := parse([]byte(test.text))
		if ok != test.ok || ok && p.sampled() != test.sampled {
			t.Errorf("%q: valid %t, sampled %t", test.text, ok, p.sampled())
		}
		if ok && (hex.EncodeToString(p.trace[:]) != traceID || hex.EncodeToString(p.span[:]) != spanID) {
			t.Errorf("%q: trace %x, span %x", test.text, p.trace, p.span)
		}
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add([]byte("00-" + traceID + "-" + spanID + "-01"))
	f.Add([]byte("fe-" + traceID + "-" + spanID + "-01-more"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parse(b)
		if !ok {
			return
		}
		if got := hex.EncodeToString(p.trace[:]) + "-" + hex.EncodeToString(p.span[:]); got != string(b[3:52]) {
			t.Errorf("%q: %s", b, got)
		}
	})
}
