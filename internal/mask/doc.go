// Package mask removes, hashes or encrypts parts of JSON payloads, and leaves every
// other byte as it was: numbers keep their digits, members their order.
//
// The parts are named by JSONPath (RFC 9535). A library finds them; the bytes are
// cut here, since a payload that is parsed and printed again is another one.
//
// What is not certain is refused (ErrUnmaskable) and never passed on as it is: a
// payload that is no JSON, is nested too deeply, or has an object with two members of
// one name, of which a reader may take either.
package mask
