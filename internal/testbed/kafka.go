package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// KafkaOptions says which Kafka cluster to start. The zero value is one broker.
type KafkaOptions struct {
	// Brokers is the number of brokers, 1 or 3; each is a controller too.
	// Defaults to 1.
	Brokers int

	// Settings override server.properties on every broker. The defaults are
	// Kafka's own, but: num.partitions=3; topics that Kafka makes by itself have
	// one replica, or with three brokers three of which two must be in sync;
	// consumer groups do not wait for members; a dead broker is noticed after
	// six seconds, and one that is alone can be back after three. There are three
	// listeners: CLIENT, whose addresses Brokers returns, INTERNAL between the
	// brokers, and CONTROLLER. So SASL for clients is a matter of
	// listener.security.protocol.map (all three names) and listener.name.client.*.
	Settings map[string]string

	// TLS makes clients use TLS. The certificate is its own authority, serves clients
	// too, and is in CertificateFile, its key in KeyFile.
	TLS bool

	// JVM are options for the brokers' Java after, and so over, the default
	// heap of 512 MiB (384 MiB each for three brokers).
	JVM []string

	// Advertised are the addresses (host:port, one for each broker) that
	// clients are told to use, such as those of a Proxy made before with an
	// empty target; its target is then the same entry of Brokers. Traffic
	// between brokers does not take that way. Defaults to the real addresses.
	Advertised []string

	// Dir is where data and logs live. What is there from an earlier start is
	// used again, and Close leaves it. Defaults to a temporary directory that
	// Close removes.
	Dir string
}

// Kafka is a cluster of brokers, numbered from 0 in this package; the node ids
// are one higher. Addresses stay the same across stops and starts.
//
// Methods may be called from any goroutine, for different brokers also at the
// same time; of those that start and stop one broker, one at a time.
type Kafka struct {
	java      string
	lib       string
	base      string
	temporary bool
	jvm       []string
	brokers   []*broker

	mu     sync.Mutex // for closed and each broker's process
	closed bool
}

type broker struct {
	dir                          string
	client, internal, controller *port
	process                      *process
}

// StartKafka starts a new cluster, fetching Kafka first if need be. It returns
// when every broker serves clients. The caller closes it.
func StartKafka(ctx context.Context, o KafkaOptions) (_ *Kafka, err error) {
	if o.Brokers == 0 {
		o.Brokers = 1
	}
	if o.Brokers != 1 && o.Brokers != 3 {
		return nil, fmt.Errorf("start Kafka: %d brokers; use 1 or 3", o.Brokers)
	}
	if n := len(o.Advertised); n != 0 && n != o.Brokers {
		return nil, fmt.Errorf("start Kafka: %d advertised addresses for %d brokers", n, o.Brokers)
	}
	k := &Kafka{}
	defer func() {
		if err != nil {
			k.Close()
			err = fmt.Errorf("start Kafka: %w", err)
		}
	}()
	if k.java, err = javaPath(); err != nil {
		return nil, err
	}
	if k.lib, err = kafkaLib(ctx); err != nil {
		return nil, err
	}
	if k.base, k.temporary, err = serverDir(o.Dir, "kafka"); err != nil {
		return nil, err
	}
	heap := "512m"
	if o.Brokers > 1 {
		heap = "384m"
	}
	k.jvm = append([]string{"-Xms128m", "-Xmx" + heap}, o.JVM...)
	if o.TLS {
		if err := writeCertificate(k.base); err != nil {
			return nil, err
		}
	}
	if err := k.prepare(o); err != nil {
		return nil, err
	}
	if err := k.each(func(i int) error { return k.format(ctx, i) }); err != nil {
		return nil, err
	}
	// None is ready before most of them are there.
	if err := k.each(func(i int) error { return k.Start(ctx, i) }); err != nil {
		return nil, err
	}
	return k, nil
}

// each calls f for all brokers at the same time.
func (k *Kafka) each(f func(i int) error) error {
	errs := make([]error, len(k.brokers))
	var all sync.WaitGroup
	for i := range k.brokers {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (k *Kafka) command(ctx context.Context, i int, jvm []string, args ...string) *exec.Cmd {
	b := k.brokers[i]
	all := append(slices.Clone(jvm), "-Dlog4j2.configurationFile="+b.logging(), "-cp", filepath.Join(k.lib, "*"))
	cmd := exec.CommandContext(ctx, k.java, append(all, args...)...)
	cmd.Dir = b.dir
	return cmd
}

// Start starts broker i, stopped or killed before, on its old data and address,
// and returns when it serves clients. After a kill the cluster first waits for
// the end of its old session (broker.session.timeout.ms). A running broker is
// an error.
func (k *Kafka) Start(ctx context.Context, i int) error {
	b, err := k.broker(i)
	if err != nil {
		return err
	}
	k.mu.Lock()
	if k.closed || b.process.running() {
		k.mu.Unlock()
		return fmt.Errorf("start broker %d: it is running or closed", i)
	}
	// Its own context: the broker is to outlive the one of this call.
	cmd := k.command(context.Background(), i, k.jvm, "kafka.Kafka", b.properties())
	proc, err := startProcess(cmd, k.LogFile(i), syscall.SIGKILL)
	if err != nil {
		k.mu.Unlock()
		return fmt.Errorf("start broker %d: %w", i, err)
	}
	b.process = proc
	k.mu.Unlock()

	cl, err := kgo.NewClient(kgo.SeedBrokers(b.internal.addr()), kgo.DialTimeout(time.Second), kgo.RequestRetries(0))
	if err != nil {
		return fmt.Errorf("start broker %d: %w", i, err)
	}
	defer cl.Close()
	return waitReady(ctx, fmt.Sprintf("Kafka broker %d", i), proc, k.LogFile(i), func(ctx context.Context) error {
		return serves(ctx, cl, int32(nodeID(i)))
	})
}

// serves asks the one broker that cl knows whether it is a member of its
// cluster: until then it answers, but leads no partition.
func serves(ctx context.Context, cl *kgo.Client, node int32) error {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	resp, err := cl.SeedBrokers()[0].Request(ctx, req)
	if err != nil {
		return err
	}
	for _, b := range resp.(*kmsg.MetadataResponse).Brokers {
		if b.NodeID == node {
			return nil
		}
	}
	return fmt.Errorf("broker with node id %d has not joined its cluster", node)
}

// Kill ends broker i with SIGKILL, also a paused one, and waits until it is gone.
func (k *Kafka) Kill(i int) error {
	b, err := k.broker(i)
	if err != nil {
		return err
	}
	if err := k.current(b).kill(); err != nil {
		return fmt.Errorf("kill broker %d: %w", i, err)
	}
	return nil
}

// StopGracefully lets broker i hand over what it leads and end, and waits for
// it until ctx ends. Three brokers cannot all be stopped in this way: without a
// quorum the last ones wait for minutes.
func (k *Kafka) StopGracefully(ctx context.Context, i int) error {
	b, err := k.broker(i)
	if err != nil {
		return err
	}
	proc := k.current(b)
	if !proc.running() {
		return nil
	}
	if err = proc.signal(syscall.SIGTERM); err == nil {
		err = proc.wait(ctx)
	}
	if err != nil {
		return fmt.Errorf("stop broker %d: %w", i, err)
	}
	return nil
}

// Pause freezes broker i (SIGSTOP): its connections stay open and silent.
func (k *Kafka) Pause(i int) error { return k.signal(i, "pause", syscall.SIGSTOP) }

// Resume lets a paused broker go on.
func (k *Kafka) Resume(i int) error { return k.signal(i, "resume", syscall.SIGCONT) }

func (k *Kafka) signal(i int, verb string, sig syscall.Signal) error {
	b, err := k.broker(i)
	if err != nil {
		return err
	}
	if proc := k.current(b); !proc.running() {
		err = errors.New("it is not running")
	} else {
		err = proc.signal(sig)
	}
	if err != nil {
		return fmt.Errorf("%s broker %d: %w", verb, i, err)
	}
	return nil
}

// Close ends all brokers at once and removes their data, unless
// KafkaOptions.Dir named their place; then a single broker is stopped in good
// order. Closing twice is harmless.
func (k *Kafka) Close() {
	k.mu.Lock()
	first := !k.closed
	k.closed = true
	k.mu.Unlock()
	if !first {
		return
	}
	if !k.temporary && len(k.brokers) == 1 {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = k.StopGracefully(ctx, 0)
	}
	_ = k.each(k.Kill)
	for _, b := range k.brokers {
		b.client.release()
		b.internal.release()
		b.controller.release()
	}
	if k.temporary {
		_ = os.RemoveAll(k.base)
	}
}

func (k *Kafka) broker(i int) (*broker, error) {
	if i < 0 || i >= len(k.brokers) {
		return nil, fmt.Errorf("no broker %d: the cluster has %d, from 0", i, len(k.brokers))
	}
	return k.brokers[i], nil
}

func (k *Kafka) current(b *broker) *process {
	k.mu.Lock()
	defer k.mu.Unlock()
	return b.process
}

// Brokers returns the brokers' real addresses for clients, host:port each, to
// be used as bootstrap servers or as the targets of proxies.
func (k *Kafka) Brokers() []string {
	return k.addrs(func(b *broker) *port { return b.client })
}

// InternalBrokers returns the addresses of the listeners between the brokers.
// They need no login and do not go through proxies: for preparing and checking
// what clients with a login, or behind a fault, will see.
func (k *Kafka) InternalBrokers() []string {
	return k.addrs(func(b *broker) *port { return b.internal })
}

func (k *Kafka) addrs(of func(*broker) *port) []string {
	addrs := make([]string, len(k.brokers))
	for i, b := range k.brokers {
		addrs[i] = of(b).addr()
	}
	return addrs
}

// NodeID returns the node id of broker i, by which Kafka's protocol names it.
func (k *Kafka) NodeID(i int) int32 { return int32(nodeID(i)) }

// LogFile returns the file with broker i's log, of all starts.
func (k *Kafka) LogFile(i int) string { return filepath.Join(k.brokers[i].dir, "kafka.log") }

// CertificateFile returns the brokers' certificate, PEM. See KafkaOptions.TLS.
func (k *Kafka) CertificateFile() string { return filepath.Join(k.base, "server.crt") }

// KeyFile returns the key of CertificateFile, PEM.
func (k *Kafka) KeyFile() string { return filepath.Join(k.base, "server.key") }

// DataDir returns the directory with broker i's partitions, a folder each.
func (k *Kafka) DataDir(i int) string { return k.brokers[i].data() }

// PID returns the process id of broker i, 0 if it was never started.
func (k *Kafka) PID(i int) int {
	if p := k.current(k.brokers[i]); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

func nodeID(i int) int { return i + 1 }

func (b *broker) data() string       { return filepath.Join(b.dir, "data") }
func (b *broker) properties() string { return filepath.Join(b.dir, "server.properties") }
func (b *broker) logging() string    { return filepath.Join(b.dir, "log4j2.properties") }
