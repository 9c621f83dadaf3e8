package main

import (
	"outboxd/internal/config"
	"outboxd/internal/replication"
)

// loader reads the configuration of a command line. The keys and groups named are not
// needed by the command, and may be missing.
type loader func(without ...string) (*config.Config, error)

// load reads the configuration for a command. A DSN that no server will take is an
// error of the configuration, whatever the command.
func load(path string, env []string, without ...string) (*config.Config, error) {
	cfg, err := config.LoadWithout(path, env, without...)
	if err != nil || cfg.Postgres.DSN.IsEmpty() {
		return cfg, err
	}
	if err := replication.CheckDSN(cfg.Postgres.DSN.Reveal()); err != nil {
		return nil, config.NewLoadError([]config.Problem{cfg.Problem("postgres.dsn", "the value "+err.Error())})
	}
	return cfg, nil
}

// usable is load for a command that connects: a configuration that `outboxd config`
// printed is refused until its secrets are put back.
func (load loader) usable(without ...string) (*config.Config, error) {
	cfg, err := load(without...)
	if err != nil {
		return nil, err
	}
	return cfg, config.NewLoadError(cfg.Placeholders())
}
