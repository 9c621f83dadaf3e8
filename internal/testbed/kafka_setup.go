package testbed

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const kafkaLogging = `appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{yyyy-MM-dd HH:mm:ss.SSS} %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server
logger.server.level = info
logger.apache.name = org.apache.kafka
logger.apache.level = warn
`

// prepare picks the addresses and writes each broker's files.
func (k *Kafka) prepare(o KafkaOptions) error {
	for i := range o.Brokers {
		b := &broker{dir: filepath.Join(k.base, fmt.Sprintf("broker%d", i))}
		k.brokers = append(k.brokers, b)
		for _, p := range []**port{&b.client, &b.internal, &b.controller} {
			var err error
			if *p, err = takePort(); err != nil {
				return err
			}
		}
	}
	for i, b := range k.brokers {
		if err := os.MkdirAll(b.dir, 0o755); err != nil {
			return fmt.Errorf("make broker directory: %w", err)
		}
		var text strings.Builder
		settings := k.settings(i, o)
		for _, name := range slices.Sorted(maps.Keys(settings)) {
			fmt.Fprintf(&text, "%s=%s\n", name, strings.NewReplacer("\\", "\\\\", "\n", "\\n").Replace(settings[name]))
		}
		err := os.WriteFile(b.properties(), []byte(text.String()), 0o644)
		if err == nil {
			err = os.WriteFile(b.logging(), []byte(kafkaLogging), 0o644)
		}
		if err != nil {
			return fmt.Errorf("write broker settings: %w", err)
		}
	}
	return nil
}

func (k *Kafka) settings(i int, o KafkaOptions) map[string]string {
	b := k.brokers[i]
	voters := make([]string, len(k.brokers))
	for j, v := range k.brokers {
		voters[j] = fmt.Sprintf("%d@%s", nodeID(j), v.controller.addr())
	}
	advertised := b.client.addr()
	if len(o.Advertised) > 0 {
		advertised = o.Advertised[i]
	}
	replicas, inSync := "1", "1"
	session, heartbeat := "3000", "500"
	if len(k.brokers) > 1 {
		replicas, inSync = "3", "2"
		session, heartbeat = "6000", "1000"
	}
	s := map[string]string{
		"process.roles":                    "broker,controller",
		"node.id":                          fmt.Sprint(nodeID(i)),
		"controller.quorum.voters":         strings.Join(voters, ","),
		"controller.listener.names":        "CONTROLLER",
		"inter.broker.listener.name":       "INTERNAL",
		"listener.security.protocol.map":   "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"listeners":                        fmt.Sprintf("CLIENT://%s,INTERNAL://%s,CONTROLLER://%s", b.client.addr(), b.internal.addr(), b.controller.addr()),
		"advertised.listeners":             fmt.Sprintf("CLIENT://%s,INTERNAL://%s", advertised, b.internal.addr()),
		"log.dirs":                         b.data(),
		"auto.create.topics.enable":        "true",
		"num.partitions":                   "3",
		"default.replication.factor":       replicas,
		"min.insync.replicas":              inSync,
		"unclean.leader.election.enable":   "false",
		"group.initial.rebalance.delay.ms": "0",

		"offsets.topic.replication.factor":                 replicas,
		"offsets.topic.num.partitions":                     "5",
		"transaction.state.log.replication.factor":         replicas,
		"transaction.state.log.min.isr":                    inSync,
		"transaction.state.log.num.partitions":             "5",
		"share.coordinator.state.topic.replication.factor": replicas,
		"share.coordinator.state.topic.min.isr":            inSync,
		"share.coordinator.state.topic.num.partitions":     "5",

		// A broker that was killed can come back only when its old session has
		// ended, nine seconds by default. Much less, and a busy machine loses
		// brokers that are well.
		"broker.session.timeout.ms":    session,
		"broker.heartbeat.interval.ms": heartbeat,
		// By default a quarter of the small heap.
		"log.cleaner.dedupe.buffer.size": "16777216",
	}
	if o.TLS {
		s["listener.security.protocol.map"] = "CLIENT:SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"
		s["listener.name.client.ssl.keystore.type"] = "PEM"
		s["listener.name.client.ssl.keystore.location"] = filepath.Join(k.base, "server.pem")
		s["listener.name.client.ssl.truststore.type"] = "PEM"
		s["listener.name.client.ssl.truststore.location"] = k.CertificateFile()
	}
	maps.Copy(s, o.Settings)
	return s
}

// format gives an empty broker directory its identity.
func (k *Kafka) format(ctx context.Context, i int) error {
	b := k.brokers[i]
	if isFile(filepath.Join(b.data(), "meta.properties")) {
		return nil
	}
	cmd := k.command(ctx, i, append([]string{"-Xmx128m"}, QuickJVM...),
		"kafka.tools.StorageTool", "format", "-t", "b3V0Ym94ZC10ZXN0YmVkMA", "-c", b.properties())
	if err := run(ctx, cmd); err != nil {
		return fmt.Errorf("format broker %d: %w", i, err)
	}
	return nil
}
