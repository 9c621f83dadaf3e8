// Package event holds what identifies an event: those who read it, keep its place and
// deliver it name it in the same way.
package event

import "github.com/jackc/pglogrepl"

// Position identifies an event for ever: decoding the same WAL again gives the
// same positions. Comparing positions gives commit order; the LSN of a row does
// not, because transactions interleave in the WAL. Zero is before every event.
type Position struct {
	// CommitLSN is the LSN of the transaction's commit record, as Begin
	// carries it.
	CommitLSN pglogrepl.LSN
	// Number counts the transaction's events from 1.
	Number uint32
}

// PositionLen is the length of a position as text.
const PositionLen = lsnDigits + 1 + 8

const lsnDigits = 16

// AppendText appends the position in its fixed-width form, whose order as text
// is commit order: 0000000001507C60-00000001.
func (p Position) AppendText(dst []byte) []byte {
	var text [PositionLen]byte
	putHex(text[:lsnDigits], uint64(p.CommitLSN))
	text[lsnDigits] = '-'
	putHex(text[lsnDigits+1:], uint64(p.Number))
	return append(dst, text[:]...)
}

// String returns the position as AppendText writes it.
func (p Position) String() string { return string(p.AppendText(nil)) }

// After reports whether p comes after q in commit order.
func (p Position) After(q Position) bool {
	return p.CommitLSN > q.CommitLSN || p.CommitLSN == q.CommitLSN && p.Number > q.Number
}

// putHex fills dst with the last digits of v.
func putHex(dst []byte, v uint64) {
	const hex = "0123456789ABCDEF"
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = hex[v&0xF]
		v >>= 4
	}
}
