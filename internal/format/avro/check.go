package avro

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/sr"

	"outboxd/decoder"
	"outboxd/internal/finding"
)

// Check asks the registry whether it answers, and for the subjects of these topics, as
// far as they do not depend on a row. It registers nothing.
func (a *Format) Check(ctx context.Context, topics []string) (found []finding.Finding) {
	const subject = "registry"
	if _, err := a.registry.client.SupportedTypes(ctx); err != nil {
		err = a.registry.explain(err, "ask for its schema types")
		return []finding.Finding{registryFailed(subject, err, "see value.avro.registry, and that the registry runs")}
	}
	found = append(found, finding.Ok(subject, "answers at ", a.registry.url))
	names, depends := a.subjectsOf(topics)
	for _, name := range names {
		found = append(found, a.checkSubject(ctx, name))
	}
	if depends {
		found = append(found, finding.Unchecked(fmt.Sprintf("subjects %q", a.o.Subject), "they depend on the row"))
	}
	return found
}

// subjectsOf returns the subjects of topics; depends says that there are others, which
// depend on the row.
func (a *Format) subjectsOf(topics []string) (names []string, depends bool) {
	if len(topics) == 0 {
		return nil, true
	}
	for _, topic := range topics {
		var b strings.Builder
		for _, p := range a.subject {
			switch p.field {
			case decoder.NoField:
				b.WriteString(p.literal)
			case topicPart:
				b.WriteString(topic)
			default:
				return nil, true
			}
		}
		names = append(names, b.String())
	}
	return names, false
}

// checkSubject looks one subject up as its first event does.
func (a *Format) checkSubject(ctx context.Context, name string) finding.Finding {
	subject := fmt.Sprintf("subject %q", name)
	if a.o.BySchema {
		s := &subjectLook{ctx, a.registry, name}
		version, err := s.newest()
		if err != nil {
			return registryFailed(subject, err, "register an Avro schema for its payloads")
		}
		return finding.Ok(subject, fmt.Sprintf("payloads are encoded by version %d", version))
	}
	schema := sr.Schema{Schema: envelopeText}
	_, err := a.registry.client.LookupSchema(ctx, name, schema)
	switch {
	case err == nil:
		return finding.Ok(subject, "has the envelope's schema")
	case !a.o.Register:
		if _, err := a.registry.envelope(name, false); err != nil {
			return registryFailed(subject, err, "")
		}
		return finding.Ok(subject, "has the envelope's schema")
	case !isStatus(err, http.StatusNotFound):
		return registryFailed(subject, a.registry.explain(err, "look the envelope's schema up"), "")
	}
	fits, err := a.registry.client.CheckCompatibility(ctx, name, -1, schema)
	switch {
	case isStatus(err, http.StatusNotFound), err == nil && fits.Is:
		return finding.Ok(subject, "gets the envelope's schema with its first event")
	case err == nil:
		return finding.Finding{Level: finding.Fail, Subject: subject, Text: "has a schema that the envelope's is not compatible with",
			Fix: "name another subject with value.avro.subject, or change the subject's compatibility level"}
	}
	return finding.Unchecked(subject, a.registry.explain(err, "compare the envelope's schema").Error())
}

// subjectLook looks a subject's newest schema up without remembering it.
type subjectLook struct {
	ctx      context.Context
	registry *registry
	name     string
}

func (s *subjectLook) newest() (version int, err error) {
	found, err := s.registry.client.SchemaByVersion(s.ctx, s.name, -1)
	if isStatus(err, http.StatusNotFound) {
		return 0, fmt.Errorf("the registry at %s does not know it", s.registry.url)
	}
	if err != nil {
		return 0, s.registry.explain(err, "look its newest schema up")
	}
	cache := &avro.SchemaCache{}
	if err := s.registry.references(s.ctx, found.References, cache, make(map[string]bool)); err != nil {
		return 0, err
	}
	if _, err := compileAvro(found.Schema, cache); err != nil {
		return 0, fmt.Errorf("version %d: %w", found.Version, err)
	}
	return found.Version, nil
}

// registryFailed is the finding of an error, with the fix that it names itself.
func registryFailed(subject string, err error, fix string) finding.Finding {
	what, own, _ := strings.Cut(err.Error(), "; ")
	if own != "" {
		fix = own
	}
	if errors.Is(err, context.DeadlineExceeded) {
		what = "no answer: " + what
	}
	return finding.Finding{Level: finding.Fail, Subject: subject, Text: what, Fix: fix}
}
