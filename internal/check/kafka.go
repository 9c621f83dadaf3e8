package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/finding"
	"outboxd/internal/remedy"
)

// cluster is what is asked of Kafka, and what is known of it.
type cluster struct {
	o       Options
	client  *kgo.Client
	admin   *kadm.Client
	reached bool
	brokers []int32 // advertised and reached
	// settings are those of one broker; nil: it does not tell. They decide what
	// happens with topics that are missing.
	settings map[string]string
	// apis are the requests that every broker knows; nil: not known.
	apis map[int16]bool
}

func (c *cluster) close() {
	if c.client != nil {
		c.client.Close()
	}
}

// needed are the requests that outboxd makes beyond those that every broker knows.
const (
	initProducerID      = 22
	addPartitionsToTxn  = 24
	endTxn              = 26
	describeConfigs     = 32
	describeTransaction = 65
)

func (c *cluster) check(ctx context.Context, g *group) {
	g.step(ctx, "brokers", 0, c.seeds)
	further := func(subject string, look func(context.Context) []finding.Finding) {
		g.step(ctx, subject, 0, func(ctx context.Context) []finding.Finding {
			if !c.reached {
				return []finding.Finding{finding.Unchecked(subject, "no broker was reached")}
			}
			return look(ctx)
		})
	}
	further("cluster", c.advertised)
	further("requests", c.requests)
	further("broker settings", c.readSettings)
	for _, topic := range c.o.Topics {
		further(fmt.Sprintf("topic %q", topic), func(ctx context.Context) []finding.Finding { return c.topic(ctx, topic) })
	}
	for _, template := range c.o.Templates {
		further(fmt.Sprintf("topics %q", template), func(ctx context.Context) []finding.Finding { return c.template(ctx, template) })
	}
	if c.o.Positions != nil {
		further(fmt.Sprintf("topic %q", c.o.PositionsTopic), c.positions)
	}
	if c.o.DeadLetterTopic != "" {
		further(fmt.Sprintf("topic %q", c.o.DeadLetterTopic), c.deadLetters)
	}
	if c.o.ExactlyOnce {
		further("transactional id", c.transactional)
	}
	if len(c.o.Groups) > 0 {
		further("consumer groups", c.groups)
	}
}

// seeds asks each broker of kafka.brokers. One that answers is enough for a start.
func (c *cluster) seeds(ctx context.Context) []finding.Finding {
	found := make([]finding.Finding, len(c.o.Kafka.Brokers))
	var together sync.WaitGroup
	for i, address := range c.o.Kafka.Brokers {
		together.Go(func() {
			subject := "broker " + address
			if err := c.seed(ctx, address); err != nil {
				found[i] = failed(subject, err, "see that the broker runs and listens there, and that kafka.tls and kafka.sasl fit its listener")
				return
			}
			found[i] = finding.Ok(subject, "answers", c.how())
		})
	}
	together.Wait()
	c.reached = slices.ContainsFunc(found, func(f finding.Finding) bool { return f.Level == finding.OK })
	if !c.reached {
		return found
	}
	o := c.o.Kafka
	o.Brokers = nil // only those that answer: a silent one would cost every further check its time
	for i := range found {
		if found[i].Level == finding.OK {
			o.Brokers = append(o.Brokers, c.o.Kafka.Brokers[i])
		} else {
			found[i].Level = finding.Warn // the others do
		}
	}
	client, err := kgo.NewClient(o.Connection()...)
	if err != nil {
		c.reached = false
		return append(found, failed("brokers", err, ""))
	}
	c.client, c.admin = client, kadm.NewClient(client)
	return found
}

// how says how the connections are made.
func (c *cluster) how() string {
	text := ", not encrypted"
	if c.o.Kafka.TLS != nil || c.o.Kafka.ReadTLS != nil {
		text = ", TLS"
	}
	if c.o.Kafka.SASL != nil {
		text += ", SASL " + c.o.Kafka.SASL.Name()
	}
	return text
}

func (c *cluster) seed(ctx context.Context, address string) error {
	o := c.o.Kafka
	o.Brokers = []string{address}
	client, err := kgo.NewClient(o.Connection()...)
	if err != nil {
		return err
	}
	defer client.Close()
	seeds := client.SeedBrokers()
	if len(seeds) == 0 {
		return errors.New("no address")
	}
	_, err = versions(ctx, seeds[0])
	return err
}

// versions asks a broker which requests it knows.
func versions(ctx context.Context, broker *kgo.Broker) (map[int16]bool, error) {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "outboxd", "check" // a request without is refused
	resp, err := broker.Request(ctx, req)
	if err != nil {
		return nil, err
	}
	answer := resp.(*kmsg.ApiVersionsResponse)
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		return nil, err
	}
	known := make(map[int16]bool)
	for _, k := range answer.ApiKeys {
		known[k.ApiKey] = true
	}
	return known, nil
}

// advertised asks every broker at the address that it names itself: a producer writes
// to these, whatever kafka.brokers says.
func (c *cluster) advertised(ctx context.Context) (found []finding.Finding) {
	const subject = "cluster"
	metadata, err := c.admin.BrokerMetadata(ctx)
	if err != nil {
		return []finding.Finding{failed(subject, err, "")}
	}
	type answer struct {
		apis map[int16]bool
		err  error
	}
	answers := make([]answer, len(metadata.Brokers))
	var together sync.WaitGroup
	for i, b := range metadata.Brokers {
		together.Go(func() {
			answers[i].apis, answers[i].err = versions(ctx, c.client.Broker(int(b.NodeID)))
		})
	}
	together.Wait()
	for i, b := range metadata.Brokers {
		if err := answers[i].err; err != nil {
			found = append(found, failed(subject, fmt.Errorf("broker %d advertises %s:%d, which cannot be used from here: %w", b.NodeID, b.Host, b.Port, err),
				"correct advertised.listeners of the broker, or open the way there"))
			continue
		}
		c.brokers = append(c.brokers, b.NodeID)
		if c.apis == nil {
			c.apis = answers[i].apis
			continue
		}
		for key := range c.apis {
			if !answers[i].apis[key] {
				delete(c.apis, key)
			}
		}
	}
	if found == nil {
		n := strconv.Itoa(len(metadata.Brokers)) + " brokers, all reached"
		if len(metadata.Brokers) == 1 {
			n = "1 broker, reached"
		}
		found = append(found, finding.Ok(subject, n, " at the address that it advertises"))
	}
	return found
}

// requests judges which of outboxd's modes the brokers can do, by the requests that
// they know.
func (c *cluster) requests(context.Context) []finding.Finding {
	const subject = "requests"
	switch {
	case c.apis == nil:
		return []finding.Finding{finding.Unchecked(subject, "no broker of the cluster was reached")}
	case !c.apis[initProducerID]:
		return []finding.Finding{{Level: finding.Fail, Subject: subject, Text: "the brokers do not know InitProducerId: they have no idempotent producers, without which records can come twice or out of order",
			Fix: "use brokers that have them (Apache Kafka since 0.11)"}}
	case !c.transactions() && c.o.ExactlyOnce:
		return []finding.Finding{{Level: finding.Fail, Subject: subject, Text: "the brokers do not know AddPartitionsToTxn and EndTxn: they have no transactions, which delivery.guarantee: exactly_once needs",
			Fix: "set delivery.guarantee: at_least_once, or use brokers that have transactions"}}
	case !c.transactions():
		return []finding.Finding{finding.Ok(subject, "idempotent producers; no transactions, which at_least_once does not need")}
	}
	return []finding.Finding{finding.Ok(subject, "idempotent producers and transactions")}
}

func (c *cluster) transactions() bool { return c.apis[addPartitionsToTxn] && c.apis[endTxn] }

// readSettings asks one broker what it does with topics that are missing. A broker
// that does not tell may do either.
func (c *cluster) readSettings(ctx context.Context) []finding.Finding {
	const subject = "broker settings"
	if len(c.brokers) == 0 {
		return []finding.Finding{finding.Unchecked(subject, "no broker of the cluster was reached")}
	}
	if !c.apis[describeConfigs] {
		return []finding.Finding{finding.Unchecked(subject, "the brokers do not know DescribeConfigs")}
	}
	configs, err := c.describe(ctx, kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(c.brokers[0])), c.brokers[0])
	if errors.Is(err, kerr.ClusterAuthorizationFailed) {
		return []finding.Finding{finding.Unchecked(subject, "no right to DescribeConfigs on the cluster; outboxd does without")}
	}
	if err != nil {
		return []finding.Finding{failed(subject, err, "")}
	}
	c.settings = configs
	creation := "make topics that are missing"
	if configs["auto.create.topics.enable"] != "true" {
		creation = "do not make topics that are missing"
	}
	if n, err := strconv.Atoi(configs["transaction.state.log.replication.factor"]); err == nil && n > len(c.brokers) && c.o.ExactlyOnce {
		if exists, known := c.exists(ctx, "__transaction_state"); known && !exists {
			return []finding.Finding{{Level: finding.Fail, Subject: subject,
				Text: fmt.Sprintf("the cluster has %d brokers, and transaction.state.log.replication.factor is %d: the first transaction waits for ever", len(c.brokers), n),
				Fix:  "lower transaction.state.log.replication.factor in the brokers' configuration, or add brokers"}}
		}
	}
	return []finding.Finding{finding.Ok(subject, "the brokers ", creation, " (auto.create.topics.enable); message.max.bytes ", configs["message.max.bytes"])}
}

// describe reads the configuration of a topic, or of a broker by that broker.
func (c *cluster) describe(ctx context.Context, kind kmsg.ConfigResourceType, name string, broker int32) (map[string]string, error) {
	req := kmsg.NewPtrDescribeConfigsRequest()
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName = kind, name
	req.Resources = append(req.Resources, r)
	resp, err := c.client.Broker(int(broker)).Request(ctx, req)
	if err != nil {
		return nil, err
	}
	resources := resp.(*kmsg.DescribeConfigsResponse).Resources
	if len(resources) != 1 {
		return nil, fmt.Errorf("%d answers instead of one", len(resources))
	}
	if err := kerr.ErrorForCode(resources[0].ErrorCode); err != nil {
		return nil, err
	}
	configs := make(map[string]string)
	for _, entry := range resources[0].Configs {
		if entry.Value != nil {
			configs[entry.Name] = *entry.Value
		}
	}
	return configs, nil
}

// transactional tells whether the transactional id may be used, without using it:
// whoever asks for a producer id ends the transactions of who has it.
func (c *cluster) transactional(ctx context.Context) []finding.Finding {
	const subject = "transactional id"
	id := c.o.TransactionalID
	if len(c.brokers) == 0 || !c.apis[describeTransaction] {
		return []finding.Finding{finding.Unchecked(subject, fmt.Sprintf("the brokers do not know DescribeTransactions; grant Write and Describe on transactional id %q", id))}
	}
	req := kmsg.NewPtrDescribeTransactionsRequest()
	req.TransactionalIDs = []string{id}
	// By name of the broker: asked for the id's coordinator, the brokers might make
	// its topic. Rights are looked at first, by any broker.
	resp, err := c.client.Broker(int(c.brokers[0])).Request(ctx, req)
	if err != nil {
		return []finding.Finding{failed(subject, err, "")}
	}
	for _, state := range resp.(*kmsg.DescribeTransactionsResponse).TransactionStates {
		if err := kerr.ErrorForCode(state.ErrorCode); errors.Is(err, kerr.TransactionalIDAuthorizationFailed) {
			return []finding.Finding{{Level: finding.Fail, Subject: subject, Text: fmt.Sprintf("no right to %q", id), Fix: "grant Write and Describe on it",
				Command: c.acls("--operation Write --operation Describe --transactional-id " + quote(id))}}
		}
	}
	return []finding.Finding{finding.Ok(subject, strconv.Quote(id), " may be described; whether it may be written shows at the first transaction")}
}

// acls is a command that grants rights.
func (c *cluster) acls(rights string) string {
	user := c.o.User
	if user == "" {
		user = "ANONYMOUS"
	}
	return fmt.Sprintf("kafka-acls.sh --bootstrap-server %s --add --allow-principal %s %s", quote(c.o.Kafka.Brokers[0]), quote("User:"+user), rights)
}

// failed is the finding of an error of the brokers' connection.
func failed(subject string, err error, fix string) finding.Finding {
	if better := strings.TrimPrefix(remedy.Kafka(err), "; "); better != "" {
		fix = better
	}
	text := err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		text = "no answer: " + text
	}
	return finding.Finding{Level: finding.Fail, Subject: subject, Text: text, Fix: fix}
}
