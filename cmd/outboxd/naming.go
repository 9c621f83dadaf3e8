package main

import (
	"cmp"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// configFile returns the configuration file that a command was started with, "" if none
// was named.
func configFile(cmd *cobra.Command) string {
	named := ""
	if flag := cmd.Flag("config"); flag != nil {
		named = flag.Value.String()
	}
	return cmp.Or(named, os.Getenv("OUTBOXD_CONFIG"))
}

// toldCommand is a command of outboxd in a message.
var toldCommand = regexp.MustCompile("`outboxd ([a-z][a-z-]*)([^`]*)`")

// nameConfig adds --config FILE to the commands that a message tells the user to run, so
// that they can be run as they stand.
func nameConfig(text, file string) string {
	if file == "" {
		return text
	}
	return toldCommand.ReplaceAllStringFunc(text, func(command string) string {
		name := toldCommand.FindStringSubmatch(command)[1]
		if slices.Contains([]string{"version", "import-debezium", "help"}, name) || strings.Contains(command, "--config") || strings.Contains(command, "--help") {
			return command
		}
		return strings.TrimSuffix(command, "`") + " --config " + quoted(file) + "`"
	})
}

// quoted quotes an argument for a shell, if it has to be.
func quoted(arg string) string {
	if regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`).MatchString(arg) {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}

// namedError is an error whose commands name the configuration file.
type namedError struct {
	error
	file string
}

func (e *namedError) Error() string { return nameConfig(e.error.Error(), e.file) }
func (e *namedError) Unwrap() error { return e.error }

// named has the commands in the text of err name the file; nil stays nil.
func named(err error, file string) error {
	if err == nil {
		return nil
	}
	return &namedError{err, file}
}
