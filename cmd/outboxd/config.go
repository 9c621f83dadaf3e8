package main

import (
	"github.com/spf13/cobra"

	"outboxd/internal/config"
)

func configCommand(load loader) *cobra.Command {
	var example bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "prints the configuration in force, or an annotated example",
		Long: "config prints the configuration that the other commands would use, as YAML: the file with what the environment\n" +
			"overrides and with the defaults, each key with where its value comes from as a comment: a line of the file and\n" +
			"what ${} in it refers to, an environment variable, or the default. It connects to nothing.\n\n" +
			"Secrets are not shown: in their place stands " + config.Placeholder + ", with which the output still\n" +
			"loads, but nothing runs. A connection string is shown without its password and without options that may hold\n" +
			"one. Keys that this version does not have yet are left out.\n\n" +
			"With --example it prints every key with its default and what it means; that needs no configuration.",
		Example: "  outboxd config --config outboxd.yaml\n  outboxd config --example > outboxd.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text := config.Example
			if !example {
				cfg, err := load()
				if err != nil {
					return err
				}
				text = cfg.Print()
			}
			_, err := cmd.OutOrStdout().Write(text)
			return failed(err)
		},
	}
	cmd.Flags().BoolVar(&example, "example", false, "print the annotated example")
	return cmd
}
