package e2e

import (
	"bytes"
	"encoding/hex"
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
import com.fasterxml.jackson.databind.cfg.JsonNodeFeature;
import com.fasterxml.jackson.databind.json.JsonMapper;
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
    abstract void apply(Object... what);
    abstract void forget(Object... what);
`
	javaInMethod = `    void example(String id, String base64, JsonNode event) throws Exception {
%s
    }
`
)

// javaMapper is the one that docs/formats/raw.md shows, where an example has none.
const javaMapper = `    ObjectMapper json = JsonMapper.builder().enable(DeserializationFeature.USE_BIG_DECIMAL_FOR_FLOATS)
        .disable(JsonNodeFeature.STRIP_TRAILING_BIGDECIMAL_ZEROES).build();
`

// javaRunner gives the records of the pages to their consumers.
const javaRunner = `
import java.util.*;
import org.apache.avro.Schema;
import org.apache.avro.generic.*;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.record.TimestampType;

class Run {
    static RecordHeaders headers;
    static byte[] hex(String digits) { return HexFormat.of().parseHex(digits); }
    static String text(byte[] b) { return b == null ? null : new String(b); }
    static io.cloudevents.CloudEvent event(byte[] b) { return b == null ? null : new io.cloudevents.kafka.CloudEventDeserializer().deserialize("t", headers, b); }
    static GenericRecord avro(byte[] b) throws Exception {
        if (b == null) return null;
        Schema schema = new Schema.Parser().parse(new java.io.File(%q));
        return new GenericDatumReader<GenericRecord>(schema).read(null, DecoderFactory.get().binaryDecoder(b, 5, b.length - 5, null));
    }
    static <V> ConsumerRecord<String, V> record(String key, V value) {
        return new ConsumerRecord<>("t", 0, 0L, 0L, TimestampType.CREATE_TIME, 0, 0, key, value, headers, Optional.empty());
    }
    static void print(String what, Object... values) {
        List<String> texts = new ArrayList<>();
        for (Object v : values) texts.add(v instanceof byte[] b ? new String(b) : String.valueOf(v));
        System.out.println(what + " " + String.join(" ", texts));
    }
    public static void main(String[] args) throws Exception {
%s    }
}
`

// javaDoes is what the consumers of the pages do with the records that stand before them.
var javaDoes = map[string]string{
	"raw.md": `apply order-1009 OrderPaid {"total":1.10}
apply order-1009 OrderNoted {"note":null,"total":2}
forget order-1009 OrderForgotten
`,
	"json.md": `apply OrderPaid 7 {"total":1.10}
apply OrderNoted 0 {"note":null,"total":2}
forget order-1009
`,
	"cloudevents.md": `apply OrderPaid order-1009 {"total":1.1}
apply OrderNoted order-1009 {"note":null,"total":2}
forget order-1009
apply OrderPaid order-1009 {"total": 1.10}
apply OrderNoted order-1009 {"note": null, "total": 2}
forget order-1009
`,
	"avro.md": `apply OrderPaid {"total":1.10}
apply OrderNoted {"note":null,"total":2}
forget order-1009
`,
	"debezium.md": `apply 8f3a7a0e order-1009 {"total":1.10}
apply c41d92b7 order-1009 {"note":null,"total":2}
apply e5f60a13 order-1009 null
`,
}

var javaMethod = regexp.MustCompile(`(?m)^(?:public )?void \w+\(`)

// The compiler takes the Java of the manual, with the libraries that the pages name, and
// the consumers of docs/formats do what their pages say.
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
	var calls strings.Builder
	consumers := 0
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
				if m := javaConsumer.FindStringSubmatch(code); m != nil && filepath.Base(filepath.Dir(path)) == "formats" {
					before, _, _ := strings.Cut(string(text), code)
					calls.WriteString(javaCalls(class, m[1], filepath.Base(path), before))
					consumers++
				}
				if !javaMethod.MatchString(code) {
					code = fmt.Sprintf(javaInMethod, code)
				}
				if !strings.Contains(code, "ObjectMapper json") {
					code = javaMapper + code
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
	if len(where) < 8 || consumers != len(javaDoes) {
		t.Errorf("%d pieces of Java were found, and %d consumers of formats", len(where), consumers)
	}
	schema, err := filepath.Abs("../internal/format/avro/envelope.avsc")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Run.java"), []byte(fmt.Sprintf(javaRunner, schema, calls.String())), 0o600); err != nil {
		t.Fatal(err)
	}
	args = append(args, filepath.Join(dir, "Run.java"))
	if out, err := exec.CommandContext(t.Context(), javac, args...).CombinedOutput(); err != nil || len(out) > 0 {
		text := string(out)
		for class, path := range where {
			text = strings.ReplaceAll(text, filepath.Join(dir, class), path+", "+class)
		}
		t.Fatalf("%v\n%s", err, text)
	}

	run := exec.CommandContext(t.Context(), filepath.Join(filepath.Dir(javac), "java"), "-cp", filepath.Join(dir, "classes")+string(filepath.ListSeparator)+filepath.Join(jars, "*"), "Run")
	var printed, wrong bytes.Buffer
	run.Stdout, run.Stderr = &printed, &wrong
	if err := run.Run(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, printed.String(), wrong.String())
	}
	parts := strings.Split(printed.String(), "== ")[1:]
	if len(parts) != len(javaDoes) {
		t.Errorf("%d consumers ran", len(parts))
	}
	for _, part := range parts {
		if page, did, _ := strings.Cut(part, "\n"); did != javaDoes[page] {
			t.Errorf("the consumer of docs/formats/%s does\n%s\nwant\n%s", page, did, javaDoes[page])
		}
	}
}

var (
	javaConsumer = regexp.MustCompile(`(?m)^void on\(ConsumerRecord<String, (\w+)> record\)`)
	javaRecord   = regexp.MustCompile("(?ms)^```text\ntopic: (.*?)^```$")
)

// javaCalls gives the records that a page shows before its consumer to it.
func javaCalls(class, value, page, before string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `        System.out.println("== %s");
        { %s on = new %[2]s() {
            void apply(Object... what) { print("apply", what); }
            void forget(Object... what) { print("forget", what); }
        };
`, page, class)
	quoted := func(text string) string { return fmt.Sprintf("hex(%q)", hex.EncodeToString([]byte(text))) }
	for _, m := range javaRecord.FindAllStringSubmatch(before, -1) {
		key, content := "null", "null"
		b.WriteString("        headers = new RecordHeaders();\n")
		for line := range strings.SplitSeq(m[1], "\n") {
			name, text, _ := strings.Cut(line, ": ")
			switch header, isHeader := strings.CutPrefix(name, "header "); {
			case isHeader:
				fmt.Fprintf(&b, "        headers.add(%q, %s);\n", header, quoted(text))
			case name == "key":
				key = "text(" + quoted(text) + ")"
			case name == "value":
				content = quoted(text)
			case name == "value in hex:":
				content = `hex("`
			case strings.HasPrefix(name, "  "):
				content += strings.TrimSpace(name)
			}
		}
		if strings.HasPrefix(content, `hex("`) && !strings.HasSuffix(content, `")`) {
			content += `")`
		}
		read := map[string]string{"String": "text", "CloudEvent": "event", "GenericRecord": "avro"}[value]
		fmt.Fprintf(&b, "        on.on(record(%s, %s(%s)));\n", key, read, content)
	}
	b.WriteString("        }\n")
	return b.String()
}
