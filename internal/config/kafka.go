package config

import "time"

// Kafka is the cluster that is written to.
type Kafka struct {
	// Brokers are host:port of some of the brokers, the others are found
	// through them. The port may be left out when it is 9092. It has no default.
	Brokers []string `yaml:"brokers" required:"yes" check:"broker"`
	// ClientID is the name that brokers log and set quotas by. Defaults to
	// outboxd.
	ClientID string `yaml:"client_id" default:"outboxd"`
	// Compression of record batches. zstd and gzip are smaller, lz4 and snappy
	// cost less CPU time. Defaults to lz4.
	Compression string `yaml:"compression" default:"lz4" enum:"none,gzip,snappy,lz4,zstd"`
	// Linger is how long a batch waits for more records: larger batches for
	// that much latency. Defaults to 0s.
	Linger time.Duration `yaml:"linger" default:"0s" min:"0s"`
	// MaxBuffered bounds the bytes that were handed over and are not yet
	// acknowledged; reading waits at this line. More rides out slower brokers
	// for that much memory. Defaults to 64MiB.
	MaxBuffered ByteSize `yaml:"max_buffered" default:"64MiB" min:"1"`
	// TLS of the connections to the brokers.
	TLS TLS `yaml:"tls"`
	// SASL authentication with the brokers.
	SASL SASL `yaml:"sasl"`
}

// TLS encrypts connections.
type TLS struct {
	// Enabled turns TLS on. Defaults to false.
	Enabled bool `yaml:"enabled" default:"false"`
	// CA is a PEM file with the authorities to trust. Defaults to the system's.
	CA string `yaml:"ca"`
	// Cert is a PEM file with the client's certificate, for mutual TLS.
	// Defaults to none.
	Cert string `yaml:"cert"`
	// Key is a PEM file with the key of Cert. Defaults to none.
	Key string `yaml:"key"`
	// ServerName is the name to expect in the servers' certificates. Defaults
	// to the host that is connected to.
	ServerName string `yaml:"server_name"`
}

// SASL authenticates with Kafka.
type SASL struct {
	// Mechanism is how; "" does not authenticate. PLAIN sends the password, so
	// use it only with TLS. Defaults to "".
	Mechanism string `yaml:"mechanism" enum:",PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER,AWS_MSK_IAM" unbuilt:"OAUTHBEARER,AWS_MSK_IAM"`
	// Username to authenticate as. Defaults to none.
	Username string `yaml:"username"`
	// Password of that user. Defaults to none.
	Password Secret `yaml:"password"`
}
