package mask

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Key is a named key of value.keys. Its methods may be called by any goroutine.
type Key struct {
	id   uint32
	aead cipher.AEAD // nil: it is a key to hash with
	hmac []byte
}

// minKey is the least length of a key, in bytes: a hash by a shorter one can be
// guessed.
const minKey = 16

// tinkVersion begins a ciphertext of Tink that names its key.
const tinkVersion = 1

// NewKey reads the text of a key: ID:BASE64 is one to encrypt with, of 16 or 32 bytes,
// and ID, a number up to 2^32-1, is what readers find it by. Any other text is a key to
// hash with. No error quotes it.
func NewKey(text string) (*Key, error) {
	text = strings.TrimSpace(text) // the end of line of a file
	number, encoded, found := strings.Cut(text, ":")
	id, err := strconv.ParseUint(number, 10, 32)
	if !found || err != nil {
		if len(text) < minKey {
			return nil, fmt.Errorf("a key has %d bytes at least", minKey)
		}
		return &Key{hmac: []byte(text)}, nil
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, errors.New("what follows the identifier is not base64")
	}
	if len(raw) != 16 && len(raw) != 32 {
		return nil, fmt.Errorf("the key has %d bytes; AES-GCM takes 16 or 32", len(raw))
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &Key{id: uint32(id), aead: aead}, err
}

// Encrypts reports whether it is a key to encrypt with.
func (k *Key) Encrypts() bool { return k.aead != nil }

// hashed returns a JSON string with the HMAC-SHA-256 of the text.
func (k *Key) hashed(text []byte) []byte {
	h := hmac.New(sha256.New, k.hmac)
	h.Write(text)
	out := append(make([]byte, 0, 2*sha256.Size+2), '"')
	out = hex.AppendEncode(out, h.Sum(nil))
	return append(out, '"')
}

// encrypted returns a JSON string with the ciphertext of the text in Tink's frame: one
// byte 1, the key's identifier (big endian), a random nonce of 12 bytes, the AES-GCM
// ciphertext with its tag. There is no associated data.
// https://developers.google.com/tink/wire-format
func (k *Key) encrypted(text []byte) ([]byte, error) {
	const frame = 1 + 4
	sealed := make([]byte, frame+k.aead.NonceSize(), frame+k.aead.NonceSize()+len(text)+k.aead.Overhead())
	sealed[0] = tinkVersion
	binary.BigEndian.PutUint32(sealed[1:], k.id)
	nonce := sealed[frame:]
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	sealed = k.aead.Seal(sealed, nonce, text, nil)
	out := append(make([]byte, 0, base64.StdEncoding.EncodedLen(len(sealed))+2), '"')
	out = base64.StdEncoding.AppendEncode(out, sealed)
	return append(out, '"'), nil
}
