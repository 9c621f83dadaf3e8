package debezium

import (
	"regexp"
	"strconv"
	"strings"
)

const producer = "producer.override."

// kafka writes the kafka group.
func (im *importer) kafka() {
	im.out.group(0, "kafka")
	if brokers := list(im.reference(producer+"bootstrap.servers", im.get(producer+"bootstrap.servers", ""))); len(brokers) > 0 {
		quoted := make([]string, len(brokers))
		for i, b := range brokers {
			quoted[i] = scalar(b)
		}
		im.out.set(1, "brokers", "["+strings.Join(quoted, ", ")+"]")
	} else {
		im.out.set(1, "brokers", `"${KAFKA_BROKERS}"`, "The connector's file does not say: set KAFKA_BROKERS to host:port,host:port, or write them here.")
	}
	if id := im.get(producer+"client.id", ""); id != "" {
		if len(id) > 256 {
			im.refuse(producer+"client.id", "it is longer than 256 bytes")
		}
		im.out.text(1, "client_id", literal(id))
	}
	switch c := im.get(producer+"compression.type", ""); c {
	case "":
	case "none", "gzip", "snappy", "lz4", "zstd":
		im.out.text(1, "compression", c)
	default:
		im.refuse(producer+"compression.type", "%q is not one of none, gzip, snappy, lz4, zstd", clip(c))
	}
	if linger := im.get(producer+"linger.ms", ""); linger != "" {
		ms, err := strconv.Atoi(linger)
		if err != nil || ms < 0 || ms > 60_000 {
			im.refuse(producer+"linger.ms", "%q is not a number of milliseconds up to 60000", clip(linger))
		}
		im.out.text(1, "linger", strconv.Itoa(ms)+"ms")
	}
	if size := im.get(producer+"max.request.size", ""); size != "" {
		im.note("%s is %s: Kafka Connect's producer refuses a larger event, by its size before compression. outboxd sends what the topic takes (max.message.bytes, after compression), so a larger event may now arrive.",
			im.spelling(producer+"max.request.size"), clip(size))
	}
	if acks := im.get(producer+"acks", "all"); acks != "all" && acks != "-1" {
		im.note("%s is %s; outboxd waits for all replicas, always.", im.spelling(producer+"acks"), clip(acks))
	}
	protocol := im.choice(producer+"security.protocol", "plaintext", "plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
	if protocol == "ssl" || protocol == "sasl_ssl" {
		im.tls()
	}
	if strings.HasPrefix(protocol, "sasl") {
		im.sasl()
	}
}

func (im *importer) tls() {
	im.out.group(1, "tls")
	im.out.set(2, "enabled", "true")
	store := func(kind, keys string) (path string) {
		option := producer + "ssl." + kind
		path = im.get(option+".location", "")
		format := strings.ToUpper(im.get(option+".type", "JKS"))
		if im.get(option+".password", "") != "" && format == "PEM" {
			im.refuse(option+".password", "cannot be honoured: outboxd reads PEM files without a password")
		}
		for _, inline := range []string{option + ".certificates", option + ".certificate.chain", option + ".key"} {
			if im.get(inline, "") != "" {
				im.refuse(inline, "cannot be honoured: write it into a PEM file, and name that in %s", keys)
			}
		}
		if path != "" && format != "PEM" {
			im.refuse(option+".location", "it is a %s store, which only Java reads: write it as PEM (keytool -exportcert -rfc, openssl pkcs12 -nodes) and set %s.type to PEM", clip(format), im.spelling(option))
		}
		return path
	}
	if ca := store("truststore", "kafka.tls.ca"); ca != "" {
		im.out.text(2, "ca", im.reference(producer+"ssl.truststore.location", ca))
	}
	if pair := store("keystore", "kafka.tls.cert and kafka.tls.key"); pair != "" {
		file := im.reference(producer+"ssl.keystore.location", pair)
		im.out.text(2, "cert", file)
		im.out.text(2, "key", file)
	}
	if im.get(producer+"ssl.key.password", "") != "" {
		im.refuse(producer+"ssl.key.password", "cannot be honoured: outboxd reads keys without a password")
	}
	for _, ignored := range []string{"ssl.protocol", "ssl.enabled.protocols", "ssl.provider", "ssl.keymanager.algorithm", "ssl.trustmanager.algorithm"} {
		if im.given(producer + ignored) {
			im.get(producer+ignored, "")
			im.ignored = append(im.ignored, im.spelling(producer+ignored)+": TLS 1.2 and newer")
		}
	}
}

var jaas = regexp.MustCompile(`(?:^|\s)(username|password)\s*=\s*"((?:[^"\\]|\\.)*)"`)

func (im *importer) sasl() {
	mechanism := im.get(producer+"sasl.mechanism", "GSSAPI")
	if mechanism != "PLAIN" && mechanism != "SCRAM-SHA-256" && mechanism != "SCRAM-SHA-512" {
		im.refuse(producer+"sasl.mechanism", "%s cannot be honoured; there are PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512", clip(mechanism))
	}
	im.out.group(1, "sasl")
	im.out.text(2, "mechanism", mechanism)
	option := producer + "sasl.jaas.config"
	value := im.get(option, "")
	found := make(map[string]string)
	for _, m := range jaas.FindAllStringSubmatch(value, -1) {
		found[m[1]] = regexp.MustCompile(`\\(.)`).ReplaceAllString(m[2], "$1")
	}
	switch {
	case value == "":
		im.refuse(option, "missing; sasl.mechanism needs it")
	case found["username"] == "" && im.isReference(value):
		im.note("%s stands elsewhere: set KAFKA_USERNAME and KAFKA_PASSWORD.", im.spelling(option))
		im.out.set(2, "username", `"${KAFKA_USERNAME}"`)
		im.out.set(2, "password", `"${KAFKA_PASSWORD}"`)
	case found["username"] == "" || found["password"] == "":
		im.refuse(option, "%s", `it has no username="…" and password="…"`)
	default:
		im.out.text(2, "username", im.reference("kafka.username", found["username"]))
		im.out.text(2, "password", im.reference("kafka.password", found["password"]),
			"Better ${file:/run/secrets/kafka} or ${KAFKA_PASSWORD} than the password.")
	}
}
