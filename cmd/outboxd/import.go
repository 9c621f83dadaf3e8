package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"outboxd/internal/debezium"
)

func importCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "import-debezium FILE",
		Short: "prints an outboxd.yaml equal to a Debezium connector",
		Long: "import-debezium reads a connector's JSON, as Kafka Connect's REST interface accepts it or its config alone, or\n" +
			"Debezium Server's application.properties (- is stdin), and prints the configuration with which outboxd writes the\n" +
			"same records. An option that cannot be honoured is an error that names it; all are shown at once.",
		Example: "  outboxd import-debezium connector.json > outboxd.yaml\n" +
			"  curl -s connect:8083/connectors/outbox | outboxd import-debezium -",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := readAll(cmd, args[0])
			if err != nil {
				return failed(fmt.Errorf("read the connector's file: %w", err))
			}
			out, err := debezium.Import(file)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(out)
			return failed(err)
		},
	}
}

func readAll(cmd *cobra.Command, path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(cmd.InOrStdin())
	}
	return os.ReadFile(path)
}
