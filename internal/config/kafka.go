package config

import "time"

// Kafka is the cluster that is written to.
type Kafka struct {
	// Brokers are host:port of some of the brokers, the others are found
	// through them. The port may be left out when it is 9092. It has no default.
	Brokers []string `yaml:"brokers" required:"yes" check:"broker"`
	// ClientID is the name that brokers log and set quotas by. Defaults to
	// outboxd.
	ClientID string `yaml:"client_id" default:"outboxd" check:"client id"`
	// Compression of record batches. zstd and gzip are smaller, lz4 and snappy
	// cost less CPU time. Defaults to lz4.
	Compression string `yaml:"compression" default:"lz4" enum:"none,gzip,snappy,lz4,zstd"`
	// Linger is how long a batch waits for more records: larger batches for
	// that much latency. Defaults to 0s.
	Linger time.Duration `yaml:"linger" default:"0s" min:"0s" max:"1m"`
	// MaxBuffered bounds the bytes that were handed over and are not yet
	// acknowledged; at this limit reading waits. A higher limit lets reading continue
	// for longer while brokers are slow, and uses that much memory. Defaults to 64MiB.
	MaxBuffered ByteSize `yaml:"max_buffered" default:"64MiB" min:"1MiB" max:"1TiB"`
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
	// Mechanism is how; "" does not authenticate. PLAIN sends the password and
	// OAUTHBEARER a token, so use them only with TLS. Defaults to "".
	Mechanism string `yaml:"mechanism" enum:",PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER,AWS_MSK_IAM"`
	// Username to authenticate as. For OAUTHBEARER the client's identifier at
	// TokenURL, for AWS_MSK_IAM an access key's. Defaults to none.
	Username string `yaml:"username"`
	// Password of that user. For OAUTHBEARER the client's secret, for AWS_MSK_IAM
	// the secret access key; AWS_MSK_IAM without both takes the credentials that the
	// environment, the instance or the pod has. Defaults to none.
	Password Secret `yaml:"password"`
	// TokenURL is where OAUTHBEARER gets its tokens: an OAuth 2.0 token endpoint,
	// which is asked for client credentials. Defaults to none.
	TokenURL string `yaml:"token_url"`
	// TokenCA is a PEM file with the authorities to trust in TokenURL's certificate.
	// Defaults to the system's.
	TokenCA string `yaml:"token_ca"`
	// Scope is what to ask TokenURL for, several with spaces between. Defaults to none.
	Scope string `yaml:"scope"`
	// Token is OAUTHBEARER's token itself, such as the file of a service account. It
	// is read again for each login. Defaults to none.
	Token Secret `yaml:"token"`
	// Extensions go with OAUTHBEARER's token, such as Confluent Cloud's
	// logicalCluster and identityPoolId. Defaults to none.
	Extensions map[string]string `yaml:"extensions"`
}
