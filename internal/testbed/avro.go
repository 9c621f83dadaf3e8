package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// ReadAvro decodes binary-encoded Avro data, all written with the same schema,
// with Apache Avro's own library, fetching it first if need be. It returns the
// JSON encoding of each, as the Avro specification has it: a union's value is
// tagged with its type, bytes are a string of the code points 0 to 255, and
// logical types are the types beneath.
func ReadAvro(ctx context.Context, schema string, data ...[]byte) ([]json.RawMessage, error) {
	jar, err := avroToolsJar(ctx)
	if err != nil {
		return nil, fmt.Errorf("read Avro: %w", err)
	}
	java, err := javaPath()
	if err != nil {
		return nil, fmt.Errorf("read Avro: %w", err)
	}
	dir, err := os.MkdirTemp("", tempPrefix+"avro-*")
	if err != nil {
		return nil, fmt.Errorf("read Avro: %w", err)
	}
	defer os.RemoveAll(dir)
	schemaFile, dataFile := filepath.Join(dir, "schema.avsc"), filepath.Join(dir, "data")
	if err := errors.Join(os.WriteFile(schemaFile, []byte(schema), 0o600), os.WriteFile(dataFile, bytes.Join(data, nil), 0o600)); err != nil {
		return nil, fmt.Errorf("read Avro: %w", err)
	}
	cmd := exec.CommandContext(ctx, java, "-Xmx128m", "-XX:TieredStopAtLevel=1", "-jar", jar, "fragtojson", "--no-pretty", "--schema-file", schemaFile, dataFile)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("read Avro: %w\n%s%s", err, stdout.Bytes(), stderr.Bytes())
	}
	var values []json.RawMessage
	for d := json.NewDecoder(&stdout); ; {
		var v json.RawMessage
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read Avro: what Avro printed: %w", err)
		}
		values = append(values, v)
	}
	if len(values) != len(data) {
		return nil, fmt.Errorf("read Avro: %d values in %d pieces", len(values), len(data))
	}
	return values, nil
}
