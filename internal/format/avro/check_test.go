package avro

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"outboxd/internal/finding"
)

// A check of the registry says what the first event would meet, and registers nothing.
func TestAvroCheck(t *testing.T) {
	t.Parallel()
	const unknown = `{"error_code":40401,"message":"Subject not found."}`
	for name, test := range map[string]struct {
		lookup, compatibility string // "": not found
		status                int    // of everything, 0: as it should be
		register, bySchema    bool
		level                 finding.Level
		says                  string
	}{
		"registered":           {lookup: `{"subject":"t-value","id":1,"version":1,"schema":"\"string\""}`, level: finding.OK, says: "has the envelope's schema"},
		"new":                  {register: true, level: finding.OK, says: "with its first event"},
		"incompatible":         {register: true, compatibility: `{"is_compatible":false}`, level: finding.Fail, says: "not compatible"},
		"not to be registered": {level: finding.Fail, says: "value.avro.register"},
		"by schema, unknown":   {bySchema: true, level: finding.Fail, says: "does not know it"},
		"wrong password":       {status: http.StatusUnauthorized, level: finding.Fail, says: "value.avro.username"},
	} {
		t.Run(name, func(t *testing.T) {
			registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/vnd.schemaregistry.v1+json")
				answer := unknown
				switch path := r.URL.Path; {
				case test.status != 0:
					w.WriteHeader(test.status)
					answer = `{"error_code":401,"message":"no"}`
				case path == "/schemas/types":
					answer = `["AVRO"]`
				case strings.HasPrefix(path, "/compatibility/") && test.compatibility != "":
					answer = test.compatibility
				case path == "/subjects/t-value" && test.lookup != "":
					answer = test.lookup
				default:
					w.WriteHeader(http.StatusNotFound)
				}
				if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/versions") && !strings.HasPrefix(r.URL.Path, "/compatibility/") {
					t.Errorf("the check registers: %s", r.URL.Path)
				}
				_, _ = w.Write([]byte(answer))
			}))
			defer registry.Close()
			a, err := New(Options{Registry: registry.URL, Subject: "{topic}-value", Register: test.register, BySchema: test.bySchema})
			if err != nil {
				t.Fatal(err)
			}
			found := a.Check(t.Context(), []string{"t"})
			last := found[len(found)-1]
			if last.Level != test.level || !strings.Contains(last.Text+last.Fix, test.says) {
				t.Errorf("%+v", found)
			}
		})
	}
}
