package avro

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/sr"

	"outboxd/internal/format"
	"outboxd/internal/remedy"
	"outboxd/internal/tlsdial"
)

// registryTimeout bounds all that is asked of the registry for one event: the
// goroutine that asks also has to answer PostgreSQL's keepalives.
const registryTimeout = 3 * time.Second

// maxAnswer bounds what is read of one answer.
const maxAnswer = 4 << 20

// maxReferences bounds how many other schemas one schema may be made of.
const maxReferences = 100

// registry asks a schema registry that speaks Confluent's API. It belongs to one
// goroutine.
type registry struct {
	client *sr.Client
	url    string
	hide   *strings.Replacer // of the credentials that were sent last
	login  string            // the key of the configuration that they are from
}

func newRegistry(o Options) (*registry, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if o.TLS != nil {
		transport.TLSClientConfig = o.TLS
	}
	if read := o.ReadTLS; read != nil {
		transport.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := transport.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return tlsdial.Client(ctx, conn, addr, read)
		}
	}
	opts := []sr.ClientOpt{
		sr.URLs(strings.TrimRight(o.Registry, "/")),
		sr.UserAgent("outboxd"),
		sr.HTTPClient(&http.Client{Transport: bounded{transport}, Timeout: registryTimeout}),
	}
	registry := &registry{url: o.Registry, hide: strings.NewReplacer(), login: "value.avro.username (or value.avro.token)"}
	switch {
	case o.ReadToken != nil:
		registry.login = tokenKey
		opts = append(opts, sr.PreReq(func(r *http.Request) error {
			token, err := o.ReadToken()
			if err == nil && !isToken.MatchString(token) {
				err = errors.New("has characters that no bearer token has, such as a line break within")
			}
			if err != nil {
				return fmt.Errorf("%s: %w", tokenKey, err)
			}
			r.Header.Set("Authorization", "Bearer "+token)
			registry.hide = strings.NewReplacer(url.QueryEscape(token), hidden, token, hidden)
			return nil
		}))
	case o.Username != "":
		registry.login = "value.avro.username"
		opts = append(opts, sr.PreReq(func(r *http.Request) error {
			password := o.Password
			if o.ReadPassword != nil {
				var err error
				if password, err = o.ReadPassword(); err != nil {
					return fmt.Errorf("value.avro.password: %w", err)
				}
			}
			r.SetBasicAuth(o.Username, password)
			registry.hide = hiding(o.Username, password)
			return nil
		}))
	}
	var err error
	if registry.client, err = sr.NewClient(opts...); err != nil {
		return nil, fmt.Errorf("configure registry client: %w", err)
	}
	return registry, nil
}

const tokenKey = "value.avro.token"

// isToken is what RFC 6750 lets a bearer token be, and some that are issued all the same.
var isToken = regexp.MustCompile(`^[!-~]+$`)

// hiding takes a password out of a text, also as basic authentication sends it.
func hiding(username, password string) *strings.Replacer {
	if password == "" {
		return strings.NewReplacer()
	}
	credentials := []byte(username + ":" + password)
	return strings.NewReplacer(
		base64.StdEncoding.EncodeToString(credentials), hidden,
		base64.RawURLEncoding.EncodeToString(credentials), hidden,
		url.QueryEscape(password), hidden,
		password, hidden)
}

// hidden stands for credentials in a text that a registry sent.
const hidden = "(hidden)"

// bounded does not read more of an answer than maxAnswer.
type bounded struct{ http.RoundTripper }

func (t bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// envelope returns the id of the envelope's schema in a subject.
func (r *registry) envelope(subject string, register bool) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), registryTimeout)
	defer cancel()
	schema := sr.Schema{Schema: envelopeText}
	// Looking up needs fewer rights than registering.
	found, err := r.client.LookupSchema(ctx, subject, schema)
	switch {
	case isStatus(err, http.StatusNotFound):
		// Registries compare texts, and it may have been registered with other
		// documentation or white space.
		newest, newestErr := r.client.SchemaByVersion(ctx, subject, -1)
		if newestErr == nil {
			if s, err := parseAvro(newest.Schema.Schema, &avro.SchemaCache{}); err == nil && s.Fingerprint() == envelopeSchema.Fingerprint() {
				return newest.ID, nil
			}
		}
		switch {
		case register:
			return r.register(ctx, subject, schema)
		case newestErr == nil:
			return 0, &format.RegistryError{Err: errors.New("holds no schema that is the envelope's; register it (internal/format/avro/envelope.avsc), or set value.avro.register: true")}
		case isStatus(newestErr, http.StatusNotFound):
			return 0, &format.RegistryError{Err: fmt.Errorf("the registry at %s does not know it; register the envelope's schema (internal/format/avro/envelope.avsc), or set value.avro.register: true", r.url)}
		}
		err = newestErr
	case register && isStatus(err, http.StatusForbidden):
		return r.register(ctx, subject, schema) // who may not read may still write
	}
	return found.ID, r.explain(err, "look the envelope's schema up")
}

// register adds the envelope's schema to a subject that lacks it.
func (r *registry) register(ctx context.Context, subject string, schema sr.Schema) (int, error) {
	id, err := r.client.RegisterSchema(ctx, subject, schema, -1, -1)
	return id, r.explain(err, registering)
}

const registering = "register the envelope's schema"

// newest fetches a subject's newest schema.
func (r *registry) newest(s *subject) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), registryTimeout)
	defer cancel()
	const doing = "look its newest schema up"
	newest, err := r.client.SchemaByVersion(ctx, s.name, -1)
	if isStatus(err, http.StatusNotFound) {
		return 0, &format.RegistryError{Err: fmt.Errorf("the registry at %s does not know it; register a schema for its payloads", r.url)}
	}
	if err != nil {
		return 0, r.explain(err, doing)
	}
	if s.typ != nil && newest.Version == s.version {
		return newest.ID, nil
	}
	cache, fetched := &avro.SchemaCache{}, make(map[string]bool)
	if err := r.references(ctx, newest.References, cache, fetched); err != nil {
		return 0, err
	}
	typ, err := compileAvro(newest.Schema, cache)
	if err != nil {
		return 0, fmt.Errorf("%w: version %d: %w", format.ErrSchemaRefused, newest.Version, err)
	}
	s.typ, s.version = typ, newest.Version
	return newest.ID, nil
}

// references fetches the schemas that a schema refers to, and those that they
// refer to, and adds what they define to the cache.
func (r *registry) references(ctx context.Context, refs []sr.SchemaReference, cache *avro.SchemaCache, fetched map[string]bool) error {
	for _, ref := range refs {
		key := fmt.Sprintf("%s/%d", ref.Subject, ref.Version)
		if fetched[key] {
			continue
		}
		fetched[key] = true
		if len(fetched) > maxReferences {
			return fmt.Errorf("%w: it refers to more than %d other schemas", format.ErrSchemaRefused, maxReferences)
		}
		found, err := r.client.SchemaByVersion(ctx, ref.Subject, ref.Version)
		if err != nil {
			return r.explain(err, fmt.Sprintf("fetch %q, which it refers to (subject %q version %d)", ref.Name, ref.Subject, ref.Version))
		}
		if err := r.references(ctx, found.References, cache, fetched); err != nil {
			return err
		}
		if _, err := compileAvro(found.Schema, cache); err != nil {
			return fmt.Errorf("%w: %q, which it refers to (subject %q version %d): %w", format.ErrSchemaRefused, ref.Name, ref.Subject, ref.Version, err)
		}
	}
	return nil
}

// compileAvro turns a registered schema into what payloads are encoded by.
func compileAvro(s sr.Schema, cache *avro.SchemaCache) (*avroType, error) {
	if s.Type != sr.TypeAvro {
		return nil, fmt.Errorf("it is a schema of type %s, not Avro", s.Type)
	}
	parsed, err := parseAvro(s.Schema, cache)
	if err != nil {
		return nil, err
	}
	return newAvroType(parsed)
}

// parseAvro parses a schema. The cache holds the names that it may use.
func parseAvro(schema string, cache *avro.SchemaCache) (s avro.Schema, err error) {
	defer func() {
		// It is somebody else's text, and no reason to end.
		if r := recover(); r != nil {
			err = fmt.Errorf("it cannot be parsed: %v", r)
		}
	}()
	return avro.ParseBytesWithCache(keepDefaults([]byte(schema)), "", cache)
}

// notPermitted is Confluent's error code of a registry that is read-only for a
// while. Its HTTP status is that of an invalid schema.
const notPermitted = 42205

// explain tells what may pass from what an operator has to change. A conflict
// is the registry's word that the schema is incompatible; every registry has its
// own form of the reason.
func (r *registry) explain(err error, doing string) error {
	var answer *sr.ResponseError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &answer):
		return &format.RegistryError{Err: fmt.Errorf("%s: %w%s", doing, err, remedy.Registry(err))}
	case answer.ErrorCode == notPermitted:
		said := fmt.Sprintf("%s: the registry at %s does not permit it now", doing, r.url)
		return &format.RegistryError{Err: fmt.Errorf("%s: %s", said, r.reason(answer)), Public: errors.New(said)}
	case answer.StatusCode == http.StatusConflict || answer.StatusCode == http.StatusUnprocessableEntity:
		return fmt.Errorf("%w: the registry refuses to %s: %s", format.ErrSchemaRefused, doing, r.reason(answer))
	}
	hint := ""
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		hint = "; check " + r.login + " and its rights"
		if doing == registering {
			hint += ", or register the schema by other means (internal/format/avro/envelope.avsc) and set value.avro.register: false"
		}
	case http.StatusNotFound:
		hint = "; check the path in value.avro.registry"
	}
	said := fmt.Sprintf("%s: the registry at %s answers %d %s", doing, r.url, answer.StatusCode, http.StatusText(answer.StatusCode))
	return &format.RegistryError{Err: fmt.Errorf("%s: %s%s", said, r.reason(answer), hint), Public: errors.New(said + hint)}
}

// maxReason bounds what is shown of an answer; it may be a page of HTML.
const maxReason = 1000

// reason is what a registry answered, without the credentials that it may repeat.
func (r *registry) reason(e *sr.ResponseError) string {
	text := r.hide.Replace(strings.Join(strings.Fields(e.Error()), " "))
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}

func isStatus(err error, code int) bool {
	var answer *sr.ResponseError
	return errors.As(err, &answer) && answer.StatusCode == code
}
