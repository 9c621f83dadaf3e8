//go:build man

package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Built with the tag man, the program writes its manual pages instead of running:
// what they need has no place in the binary.
func init() {
	extra = append(extra, func() *cobra.Command {
		return &cobra.Command{
			Use:    "man DIR",
			Hidden: true,
			Args:   cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				root := rootCommand(context.Background())
				root.DisableAutoGenTag = true
				long := time.Unix(0, 0).UTC() // no time of the build
				return failed(doc.GenManTree(root, &doc.GenManHeader{Title: "OUTBOXD", Section: "1", Source: "outboxd " + version, Manual: "outboxd", Date: &long}, args[0]))
			},
		}
	})
}
