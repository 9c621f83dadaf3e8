package mask

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func key(t testing.TB, text string) *Key {
	t.Helper()
	k, err := NewKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const hashText = "a key of sixteen bytes at least"

var aesKey = bytes.Repeat([]byte{7}, 32)

func aesText() string { return "3000000000:" + base64.StdEncoding.EncodeToString(aesKey) + "\n" }

func removing(t testing.TB, paths ...string) *Masker {
	t.Helper()
	var rules []Rule
	for _, p := range paths {
		rules = append(rules, Rule{Path: p, How: Remove})
	}
	m, err := New(rules, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Every byte that is not masked stays.
func TestRemove(t *testing.T) {
	for _, test := range []struct{ name, path, payload, want string }{
		{"the only member", "$.a", `{"a":1}`, `{}`},
		{"the first", "$.a", `{ "a" : 1 , "b" : 2 }`, `{ "b" : 2 }`},
		{"the middle", "$.b", `{"a":1, "b":2, "c":3}`, `{"a":1, "c":3}`},
		{"the last", "$.c", `{"a":1, "b":2, "c":3 }`, `{"a":1, "b":2 }`},
		{"numbers keep their digits", "$.b", `{"a":12345678901234567890.10e+05,"b":2}`, `{"a":12345678901234567890.10e+05}`},
		{"order and escapes stay", "$.c", `{"b":"\u00e9\/","a":"é","c":0}`, `{"b":"\u00e9\/","a":"é"}`},
		{"a name with escapes", "$.card", `{"\u0063ard":"4111","b":1}`, `{"b":1}`},
		{"deep", "$.a[1].b", `{"a":[0,{"b":1,"c":2}]}`, `{"a":[0,{"c":2}]}`},
		{"all of an array", "$[*]", ` [1, 2, 3] `, ` [] `},
		{"some of an array", "$[0,2]", `[1, 2, 3, 4]`, `[2, 4]`},
		{"the end of an array", "$[1:]", `[1 , 2, 3]`, `[1]`},
		{"everywhere", "$..pin", `{"pin":1,"x":[{"pin":2},{"y":{"pin":[3]}}]}`, `{"x":[{},{"y":{}}]}`},
		{"by a filter", `$.p[?@.kind=="iban"]`, `{"p":[{"kind":"iban","v":1},{"kind":"x"}]}`, `{"p":[{"kind":"x"}]}`},
		{"a number in a filter", `$.p[?@>10]`, `{"p":[9, 11, 1e2]}`, `{"p":[9]}`},
		{"nothing there", "$.z", `{"a":[1, 2]}`, `{"a":[1, 2]}`},
		{"a scalar", "$.z", ` 12 `, ` 12 `},
		{"null", "$.a", `null`, `null`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := removing(t, test.path).Append(nil, []byte(test.payload))
			if err != nil || string(got) != test.want {
				t.Errorf("%s without %s: %s (%v), want %s", test.payload, test.path, got, err, test.want)
			}
		})
	}
}

func TestHash(t *testing.T) {
	h := hmac.New(sha256.New, []byte(hashText))
	h.Write([]byte("né"))
	want := hex.EncodeToString(h.Sum(nil))
	m, err := New([]Rule{{Path: "$.name", How: Hash, Key: key(t, hashText)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	// However the string is written, its hash is that of its characters.
	for _, payload := range []string{`{"name": "né", "n": 1.0}`, `{"name": "n\u00e9", "n": 1.0}`} {
		if got, err := m.Append(nil, []byte(payload)); err != nil || string(got) != `{"name": "`+want+`", "n": 1.0}` {
			t.Errorf("%s: %s (%v)", payload, got, err)
		}
	}
	// Of another value, that of its JSON: a number is not the string of its digits.
	number, err := m.Append(nil, []byte(`{"name":1}`))
	if err != nil {
		t.Fatal(err)
	}
	h.Reset()
	h.Write([]byte("1"))
	if want := `{"name":"` + hex.EncodeToString(h.Sum(nil)) + `"}`; string(number) != want {
		t.Errorf("%s, want %s", number, want)
	}
}

// open is a reader of Tink's frame.
func open(t *testing.T, quoted string) string {
	t.Helper()
	sealed, err := base64.StdEncoding.DecodeString(quoted)
	if err != nil {
		t.Fatal(err)
	}
	if sealed[0] != 1 || binary.BigEndian.Uint32(sealed[1:]) != 3000000000 {
		t.Fatalf("the frame begins with %x", sealed[:5])
	}
	block, err := aes.NewCipher(aesKey)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gcm.Open(nil, sealed[5:17], sealed[17:], nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(plain)
}

func TestEncrypt(t *testing.T) {
	m, err := New([]Rule{{Path: "$.card", How: Encrypt, Key: key(t, aesText())}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for range 2 {
		got, err := m.Append(nil, []byte(`{"id": 7, "card": {"number": "4111", "x": [1.50]}}`))
		if err != nil {
			t.Fatal(err)
		}
		var read struct {
			ID   int
			Card string
		}
		if err := json.Unmarshal(got, &read); err != nil {
			t.Fatal(err)
		}
		if plain := open(t, read.Card); plain != `{"number": "4111", "x": [1.50]}` || read.ID != 7 {
			t.Errorf("decrypted: %s, id %d", plain, read.ID)
		}
		if seen[read.Card] {
			t.Error("the same nonce was used twice")
		}
		seen[read.Card] = true
	}
}

func TestSeveralRules(t *testing.T) {
	var unmatched []string
	m, err := New([]Rule{
		{Path: "$.a.secret", How: Remove},
		{Path: "$.b", How: Hash, Key: key(t, hashText)}, // what is inside is hashed with it
		{Path: "$.b.c", How: Remove},
		{Path: "$.d", How: Remove},
		{Path: "$.d", How: Hash, Key: key(t, hashText)}, // the first counts
		{Path: "$.nowhere", How: Remove},
	}, func(path string) { unmatched = append(unmatched, path) })
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.Append(nil, []byte(`{"a":{"secret":1},"b":{"c":2},"d":3,"e":4}`))
	if err != nil {
		t.Fatal(err)
	}
	h := hmac.New(sha256.New, []byte(hashText))
	h.Write([]byte(`{"c":2}`))
	if want := `{"a":{},"b":"` + hex.EncodeToString(h.Sum(nil)) + `","e":4}`; string(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
	if !slices.Equal(unmatched, []string{"$.nowhere"}) {
		t.Errorf("unmatched: %q", unmatched)
	}
	if got, err := m.Append(nil, []byte(`{"e":1}`)); err != nil || string(got) != `{"e":1}` {
		t.Errorf("a payload with nothing to mask: %s (%v)", got, err)
	}
}

// What is not certain is refused, and the error quotes nothing of it.
func TestUnmaskable(t *testing.T) {
	m := removing(t, "$.secret")
	for name, payload := range map[string]string{
		"empty":               ``,
		"no JSON":             `secret=4111`,
		"cut":                 `{"secret":"4111`,
		"two values":          `{"secret":"4111"} {}`,
		"members twice":       `{"secret":"4111","secret":"4112"}`,
		"inside, twice":       `{"a":[{"b":"4111","b":"4112"}]}`,
		"the same by escapes": `{"secret":"4111","s\u0065cret":"4112"}`,
		"deep":                strings.Repeat(`[`, 1002) + `4111` + strings.Repeat(`]`, 1002),
		"many":                `[` + strings.Repeat(`4111,`, maxValues) + `1]`,
		"very deep":           strings.Repeat(`[`, 1_000_000) + `4111` + strings.Repeat(`]`, 1_000_000),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := m.Append(nil, []byte(payload))
			if !errors.Is(err, ErrUnmaskable) || got != nil {
				t.Fatalf("%.100s (%v)", got, err)
			}
			if strings.Contains(err.Error(), "4111") || strings.Contains(err.Error(), "secret") {
				t.Errorf("the error quotes the payload: %v", err)
			}
		})
	}
}

func TestRulesThatCannotWork(t *testing.T) {
	hash, encrypt := key(t, hashText), key(t, aesText())
	for name, r := range map[string]Rule{
		"no path":                 {Path: "a.b", How: Remove},
		"half a path":             {Path: "$.a[", How: Remove},
		"all of it removed":       {Path: "$", How: Remove},
		"no key":                  {Path: "$.a", How: Hash},
		"a key to hash with":      {Path: "$.a", How: Encrypt, Key: hash},
		"a key to encrypt with":   {Path: "$.a", How: Hash, Key: encrypt},
		"no key to encrypt with":  {Path: "$.a", How: Encrypt},
		"a function that is none": {Path: "$[?lengthy(@.a)>1]", How: Remove},
	} {
		if _, err := New([]Rule{r}, nil); err == nil || !strings.Contains(err.Error(), r.Path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	secret := base64.StdEncoding.EncodeToString([]byte("fifteen bytes.."))
	for _, text := range []string{"", "short", "1:" + secret, "1:no base64 at all"} {
		if _, err := NewKey(text); err == nil || text != "" && strings.Contains(err.Error(), strings.TrimPrefix(text, "1:")) {
			t.Errorf("key %q: %v", text, err)
		}
	}
}

// Removing by our own cuts is removing from what a library reads.
func FuzzRemove(f *testing.F) {
	for _, payload := range []string{`{"a":1,"b":[{"a":2},3]}`, `[1,[2,{"a":[]}]]`, `{"b":{"b":{"a":"\u0000"}}}`, ` {"a" : null , "c":true } `} {
		f.Add([]byte(payload))
	}
	m := removing(f, "$..a", "$.b[0]", "$[1:3]")
	f.Fuzz(func(t *testing.T, payload []byte) {
		before := bytes.Clone(payload)
		got, err := m.Append(nil, payload)
		if !bytes.Equal(payload, before) {
			t.Fatal("the payload itself was changed")
		}
		if err != nil {
			return
		}
		var in, out any
		if json.Unmarshal(payload, &in) != nil {
			t.Skip() // a number beyond float64
		}
		if err := json.Unmarshal(got, &out); err != nil {
			t.Fatalf("%q became %q: %v", payload, got, err)
		}
		if want := model(in, true); !reflect.DeepEqual(out, want) {
			t.Errorf("%q became %q, want %v", payload, got, want)
		}
	})
}

// model is what the rules of FuzzRemove leave.
func model(v any, root bool) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any)
		for name, member := range v {
			if name == "a" {
				continue
			}
			if list, ok := member.([]any); ok && root && name == "b" && len(list) > 0 {
				member = list[1:]
			}
			out[name] = model(member, false)
		}
		return out
	case []any:
		out := []any{}
		for i, member := range v {
			if root && (i == 1 || i == 2) {
				continue
			}
			out = append(out, model(member, false))
		}
		return out
	}
	return v
}

func BenchmarkAppend(b *testing.B) {
	m := removing(b, "$.customer.card")
	payload := []byte(`{"order":17,"customer":{"name":"n","card":"4111111111111111"},"lines":[` + strings.Repeat(`{"sku":"x","n":1},`, 20) + `{"sku":"y","n":2}]}`)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Append(nil, payload); err != nil {
			b.Fatal(err)
		}
	}
}
