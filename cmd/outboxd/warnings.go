package main

import (
	"net"
	"net/url"
	"slices"

	"github.com/rs/zerolog"

	"outboxd/internal/config"
)

// warn says, once at the start, what works and is not safe.
func warn(cfg *config.Config, log zerolog.Logger) {
	for _, file := range cfg.Exposed() {
		log.Warn().Str("file", file).Msg("every user of this host can read a file that holds a password; chmod 600 it")
	}
	sasl := cfg.Kafka.SASL
	if what := map[string]string{"PLAIN": "the password", "OAUTHBEARER": "the token"}[sasl.Mechanism]; what != "" && !cfg.Kafka.TLS.Enabled && slices.ContainsFunc(cfg.Kafka.Brokers, isOther) {
		log.Warn().Msg("kafka.sasl.mechanism " + sasl.Mechanism + " without kafka.tls.enabled sends " + what + " unencrypted over the network; enable TLS, or use SCRAM-SHA-512")
	}
	if idp, err := url.Parse(sasl.TokenURL); err == nil && idp.Scheme == "http" && !isThisHost(idp.Hostname()) {
		log.Warn().Str("token_url", idp.Host).Msg("the client's secret (kafka.sasl.password) and the token are sent without encryption; use an https URL")
	}
	registry, err := url.Parse(cfg.Value.Avro.Registry.Reveal())
	if cfg.Value.Format == "avro" && err == nil && registry.Scheme == "http" && !isThisHost(registry.Hostname()) {
		switch avro := cfg.Value.Avro; {
		case avro.Username != "":
			log.Warn().Str("registry", registry.Host).Msg("the password of the schema registry (value.avro.password) is sent without encryption; use an https URL")
		case !avro.Token.IsEmpty():
			log.Warn().Str("registry", registry.Host).Msg("the token of the schema registry (value.avro.token) is sent without encryption; use an https URL")
		}
	}
	if host, _, err := net.SplitHostPort(cfg.HTTP.Listen); err == nil && !cfg.HTTP.Token.IsEmpty() && cfg.HTTP.TLS.Cert == "" && !isThisHost(host) {
		log.Warn().Str("listen", cfg.HTTP.Listen).Msg("the token of the status page (http.token) is sent without encryption; set http.tls")
	}
}

// isOther tells whether a broker is on another host, as far as its name says.
func isOther(broker string) bool {
	host, _, err := net.SplitHostPort(broker)
	if err != nil {
		host = broker
	}
	return !isThisHost(host)
}

func isThisHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
