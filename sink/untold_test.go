package sink

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// A broker that does not say what a topic takes, for whatever reason, decides when it has
// the record: what is above Kafka's default is tried, and is not held back for ever.
func TestBrokerThatCannotSayItsLimit(t *testing.T) {
	answer := func(change func(*kmsg.DescribeConfigsResponseResource)) func(*testing.T) *kfake.Cluster {
		return func(t *testing.T) *kfake.Cluster {
			c := broker(t, 0)
			c.ControlKey(int16(kmsg.DescribeConfigs), func(r kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				resp := r.ResponseKind().(*kmsg.DescribeConfigsResponse)
				for _, resource := range r.(*kmsg.DescribeConfigsRequest).Resources {
					rr := kmsg.NewDescribeConfigsResponseResource()
					rr.ResourceType, rr.ResourceName = resource.ResourceType, resource.ResourceName
					change(&rr)
					resp.Resources = append(resp.Resources, rr)
				}
				return resp, nil, true
			})
			return c
		}
	}
	for name, start := range map[string]func(*testing.T) *kfake.Cluster{
		"the request is unknown": func(t *testing.T) *kfake.Cluster {
			versions := kversion.Stable()
			versions.SetMaxKeyVersion(int16(kmsg.DescribeConfigs), -1)
			return broker(t, 0, kfake.MaxVersions(versions))
		},
		"the key is not shown":     answer(func(*kmsg.DescribeConfigsResponseResource) {}),
		"the request is refused":   answer(func(r *kmsg.DescribeConfigsResponseResource) { r.ErrorCode = kerr.InvalidRequest.Code }),
		"the version is not known": answer(func(r *kmsg.DescribeConfigsResponseResource) { r.ErrorCode = kerr.UnsupportedVersion.Code }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, fits := range []bool{true, false} {
				c := start(t)
				create(t, c, map[bool]string{true: "10000000", false: "1500000"}[fits])
				learned := NewLearned()
				for round := 0; ; round++ {
					if round == 5 {
						t.Fatalf("fits %t: not decided in %d rounds", fits, round)
					}
					s := &sender{t: t, k: open(t, c, func(o *Options) { o.Learned = learned })}
					err := s.try(testTopic, "k", noise(2<<20))
					if err == nil && fits {
						s.delivered()
						break
					}
					if err != nil && s.k.Err() == nil {
						continue // nothing was decided
					}
					if err := s.failed(); errors.Is(err, ErrUndeliverable) && !fits {
						break
					} else if fits && errors.Is(err, ErrUndeliverable) {
						t.Fatalf("a record that the topic takes: %v", err)
					}
				}
			}
		})
	}
}
