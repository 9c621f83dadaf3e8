package validate

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/aesgcm"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/secretdata"

	"outboxd/internal/mask"
)

// Tink reads what value.mask encrypts, also after the key was replaced: the reader has
// both, and finds by the identifier which it is.
func TestTinkReadsWhatIsEncrypted(t *testing.T) {
	keys := map[uint32][]byte{7: bytes.Repeat([]byte{1}, 32), 4_000_000_000: bytes.Repeat([]byte{2}, 16)}
	manager := keyset.NewManager()
	for id, raw := range keys {
		parameters, err := aesgcm.NewParameters(aesgcm.ParametersOpts{KeySizeInBytes: len(raw), IVSizeInBytes: 12, TagSizeInBytes: 16, Variant: aesgcm.VariantTink})
		if err != nil {
			t.Fatal(err)
		}
		key, err := aesgcm.NewKey(secretdata.NewBytesFromData(raw, insecuresecretdataaccess.Token{}), id, parameters)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := manager.AddKey(key); err != nil {
			t.Fatal(err)
		}
	}
	if err := manager.SetPrimary(7); err != nil {
		t.Fatal(err)
	}
	handle, err := manager.Handle()
	if err != nil {
		t.Fatal(err)
	}
	reader, err := aead.New(handle)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"7:" + base64.StdEncoding.EncodeToString(keys[7]), "4000000000:" + base64.StdEncoding.EncodeToString(keys[4_000_000_000])} {
		key, err := mask.NewKey(text)
		if err != nil {
			t.Fatal(err)
		}
		m, err := mask.New([]mask.Rule{{Path: "$.card", How: mask.Encrypt, Key: key}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := m.Append(nil, []byte(`{"card": {"number": "4111"}, "n": 1.0}`))
		if err != nil {
			t.Fatal(err)
		}
		var event struct{ Card []byte } // base64
		if err := json.Unmarshal(payload, &event); err != nil {
			t.Fatal(err)
		}
		plain, err := reader.Decrypt(event.Card, nil)
		if err != nil || string(plain) != `{"number": "4111"}` {
			t.Errorf("Tink reads %s (%v)", plain, err)
		}
	}
}
