package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"outboxd/internal/testbed"
)

// javaBefore and javaAfter are what the Java of the manual takes for granted: imports, and
// what the service has.
const (
	javaBefore = `
import static java.nio.charset.StandardCharsets.UTF_8;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.*;
import com.google.crypto.tink.*;
import com.google.crypto.tink.aead.*;
import com.google.crypto.tink.util.SecretBytes;
import io.cloudevents.CloudEvent;
import java.util.*;
import org.apache.avro.generic.GenericRecord;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.springframework.jdbc.core.simple.JdbcClient;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.transaction.annotation.Transactional;

abstract class %s {
    record Order(String id, long cents) {}
    JdbcClient db;
    ObjectMapper json;
    abstract void apply(Object... what);
    abstract void forget(Object... what);
`
	javaInMethod = `    void example(String id, String base64, JsonNode event) throws Exception {
%s
    }
`
)

var javaMethod = regexp.MustCompile(`(?m)^(?:public )?void \w+\(`)

// The compiler takes the Java of the manual, with the libraries that the pages name.
func TestJavaOfTheManual(t *testing.T) {
	t.Parallel()
	javac, err := exec.LookPath("javac")
	if err != nil {
		t.Skip("javac is missing: apt-get install openjdk-17-jdk-headless")
	}
	jars, err := testbed.JavaExamples(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir, where := t.TempDir(), make(map[string]string)
	args := []string{"-d", filepath.Join(dir, "classes"), "-cp", filepath.Join(jars, "*"), "-Xlint:all,-classfile,-processing,-varargs,-serial", "-proc:none"}
	for _, pattern := range []string{"../README.md", "../docs/*.md", "../docs/*/*.md"} {
		pages, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range pages {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range block.FindAllStringSubmatch(string(text), -1) {
				if b[1] != "java" {
					continue
				}
				code, class := b[2], fmt.Sprintf("Example%d", len(where))
				if !javaMethod.MatchString(code) {
					code = fmt.Sprintf(javaInMethod, code)
				}
				file := filepath.Join(dir, class+".java")
				if err := os.WriteFile(file, []byte(fmt.Sprintf(javaBefore, class)+code+"}\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				where[class+".java"] = path
				args = append(args, file)
			}
		}
	}
	if len(where) < 8 {
		t.Errorf("only %d pieces of Java were found", len(where))
	}
	if out, err := exec.CommandContext(t.Context(), javac, args...).CombinedOutput(); err != nil || len(out) > 0 {
		text := string(out)
		for class, path := range where {
			text = strings.ReplaceAll(text, filepath.Join(dir, class), path+", "+class)
		}
		t.Errorf("%v\n%s", err, text)
	}
}
