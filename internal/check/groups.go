package check

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"outboxd/internal/finding"
)

// GroupSubject is what the subject of a finding about a consumer group begins with.
const GroupSubject = "consumer group "

// groups looks whether the lag of monitor.consumer_groups can be seen. Nothing is
// delivered less if it cannot.
func (c *cluster) groups(ctx context.Context) (found []finding.Finding) {
	answers := c.admin.FetchManyOffsets(ctx, c.o.Groups...)
	for _, name := range c.o.Groups {
		subject := GroupSubject + quote(name)
		switch answer, ok := answers[name]; {
		case !ok:
			found = append(found, finding.Unchecked(subject, "no broker has answered for it"))
		case errors.Is(answer.Err, kerr.GroupAuthorizationFailed):
			found = append(found, finding.Finding{Level: finding.Warn, Subject: subject, Text: "no right to Describe, so that its lag is not shown", Fix: "grant Describe on it",
				Command: c.acls("--operation Describe --group " + quote(name))})
		case answer.Err != nil && !errors.Is(answer.Err, kerr.GroupIDNotFound):
			found = append(found, finding.Unchecked(subject, answer.Err.Error()))
		case len(answer.Fetched) == 0:
			found = append(found, finding.Finding{Level: finding.Warn, Subject: subject, Text: "does not exist, or has read nothing yet",
				Fix: "see that monitor.consumer_groups has its name"})
		default:
			found = append(found, finding.Ok(subject, fmt.Sprintf("has read %d topics", len(answer.Fetched))))
		}
	}
	return found
}
