package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/rs/zerolog"

	"outboxd/internal/config"
	"outboxd/internal/format"
	"outboxd/internal/status"
	"outboxd/router"
	"outboxd/sink"
)

// validate builds each stage once, without connecting, and returns how records are
// written. What a stage or a client refuses now it would refuse at every attempt: it is a
// *config.LoadError, with all that is wrong.
func validate(cfg *config.Config, rules router.Rules, read columns, kafka sink.Options, st *status.Status) (format.Options, error) {
	var problems []config.Problem
	report := func(key string, err error) {
		if err != nil {
			problems = append(problems, cfg.Problem(key, err.Error()))
		}
	}
	_, err := router.New(rules)
	reportByKey("route", err, report)

	form := formatOptions(&formatWiring{cfg, read, st, kafka.Log}, report)
	for _, group := range []struct {
		key string
		tls config.TLS
	}{{"kafka.tls", cfg.Kafka.TLS}, {"value.avro.tls", cfg.Value.Avro.TLS}} {
		if group.tls.Enabled {
			_, err := group.tls.Read()
			reportTLS(group.key, err, report)
		}
	}
	_, err = cfg.HTTP.TLS.Read()
	reportTLS("http.tls", err, report)
	reportClient(cfg, kafka, report)
	return form, config.NewLoadError(problems)
}

// httpOptions says how the status is served.
func httpOptions(cfg *config.Config, log zerolog.Logger) (status.HTTP, error) {
	o := status.HTTP{Token: cfg.HTTP.Token.Current, Log: log}
	var err error
	if o.TLS, err = cfg.HTTP.TLS.Read(); err != nil {
		return o, fmt.Errorf("http.tls: %w", err)
	}
	return o, nil
}

// reportByKey reports an error that begins with the key it is about, or that of the
// group.
func reportByKey(group string, err error, report func(string, error)) {
	if err == nil {
		return
	}
	key, message, found := strings.Cut(err.Error(), ": ")
	if !found || key != group && !strings.HasPrefix(key, group+".") {
		report(group, err)
		return
	}
	report(key, errors.New(message))
}

// reportTLS reports what a group's files lack.
func reportTLS(group string, err error, report func(string, error)) {
	if err == nil {
		return
	}
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		var keyed *config.KeyError
		if errors.As(err, &keyed) {
			report(group+"."+keyed.Key, keyed.Err)
		}
	}
}

// clientKeys are the keys behind the words of the Kafka client's complaints.
var clientKeys = []struct{ word, key string }{
	{"linger", "kafka.linger"}, {"client id", "kafka.client_id"}, {"transactional id", "delivery.transactional_id"},
	{"broker", "kafka.brokers"}, {"seed", "kafka.brokers"}, {"compression", "kafka.compression"},
}

// reportClient builds a sink as each attempt will. It does not connect.
func reportClient(cfg *config.Config, o sink.Options, report func(string, error)) {
	if cfg.Delivery.Guarantee == "exactly_once" {
		o.TransactionalID = transactionalID(cfg)
	}
	o.Log = zerolog.Nop()
	k, err := sink.New(o)
	if err == nil {
		k.Close()
		return
	}
	key := "kafka"
	for _, c := range clientKeys {
		if strings.Contains(err.Error(), c.word) {
			key = c.key
			break
		}
	}
	report(key, err)
}

// readTLS reads the files of a group's options, for one connection.
func readTLS(group string, cfg config.TLS) (*tls.Config, error) {
	t, err := cfg.Read()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", group, err)
	}
	return t, nil
}
