package trace

import "encoding/hex"

// parent is the trace context of a W3C traceparent, version 00 or what is known of a later
// one.
type parent struct {
	trace [16]byte
	span  [8]byte
	flags byte
}

const (
	sampled = 1 << iota
	random  // of the trace id, by level 2 of the recommendation
)

func (p parent) sampled() bool { return p.flags&sampled != 0 }

// traceparentLen is the length of VERSION-TRACE-SPAN-FLAGS.
const traceparentLen = 2 + 1 + 32 + 1 + 16 + 1 + 2

// parse reads a traceparent. It allocates nothing.
func parse(b []byte) (p parent, ok bool) {
	if len(b) < traceparentLen || b[2] != '-' || b[35] != '-' || b[52] != '-' {
		return p, false
	}
	for i, c := range b[:traceparentLen] {
		if i != 2 && i != 35 && i != 52 && !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return p, false // also capitals
		}
	}
	version := string(b[:2])
	if version == "ff" || version == "00" && len(b) > traceparentLen || len(b) > traceparentLen && b[traceparentLen] != '-' {
		return p, false
	}
	var flags [1]byte
	// None fails: they are digits.
	_, _ = hex.Decode(p.trace[:], b[3:35])
	_, _ = hex.Decode(p.span[:], b[36:52])
	_, _ = hex.Decode(flags[:], b[53:55])
	p.flags = flags[0] & (sampled | random)
	return p, p.trace != [16]byte{} && p.span != [8]byte{}
}
