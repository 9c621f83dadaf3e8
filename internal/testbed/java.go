package testbed

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// QuickJVM are options for Java that give up peak speed for a quick start.
var QuickJVM = []string{"-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"}

const dependencyPlugin = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"

// emptyPOM is a project that asks for nothing by itself.
const emptyPOM = `<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>outboxd</groupId><artifactId>fetch</artifactId><version>1</version>
</project>
`

// javaParts are what Fetch knows besides PostgreSQL.
var javaParts = map[string]func(context.Context) (string, error){
	"kafka": kafkaLib, "debezium": debeziumLib, "registry": registryJar, "avro-tools": avroToolsJar, "examples": JavaExamples,
}

const kafkaPOM = `<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>outboxd</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>` + KafkaVersion + `</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version></dependency>
  </dependencies>
</project>
`

// kafkaLib returns the directory with Kafka's jars.
func kafkaLib(ctx context.Context) (string, error) {
	return cached(ctx, "kafka-"+KafkaVersion, func(dir string) error {
		return maven(ctx, kafkaPOM, dependencyPlugin+":copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+dir)
	})
}

const debeziumPOM = `<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>outboxd</groupId><artifactId>debezium</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>io.debezium</groupId><artifactId>debezium-connector-postgres</artifactId><version>` + DebeziumVersion + `</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId><version>` + KafkaVersion + `</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version></dependency>
  </dependencies>
</project>
`

// debeziumLib returns the directory with the jars of Kafka Connect and Debezium.
func debeziumLib(ctx context.Context) (string, error) {
	return cached(ctx, "debezium-"+DebeziumVersion+"-connect-"+KafkaVersion, func(dir string) error {
		return maven(ctx, debeziumPOM, dependencyPlugin+":copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+dir)
	})
}

// registryPOM stands in for the parent of the registry's own pom, which does
// not resolve and without which Maven refuses the artifact.
const registryPOM = `<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>io.apicurio</groupId><artifactId>apicurio-registry</artifactId><version>` + RegistryVersion + `</version>
  <packaging>pom</packaging>
</project>
`

// registryJar returns the registry's jar, which finds its libraries beside it.
func registryJar(ctx context.Context) (string, error) {
	const artifact = "apicurio-registry-app"
	dir, err := cached(ctx, "registry-"+RegistryVersion, func(dir string) error {
		if err := need("tar", "tar"); err != nil {
			return err
		}
		if err := copyArtifact(ctx, dir, registryPOM, "io.apicurio:"+artifact+":"+RegistryVersion+":tar.gz:all"); err != nil {
			return err
		}
		archive := filepath.Join(dir, artifact+"-"+RegistryVersion+"-all.tar.gz")
		if err := run(ctx, exec.CommandContext(ctx, "tar", "-xzf", archive, "--no-same-owner", "-C", dir)); err != nil {
			return err
		}
		return os.Remove(archive)
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, artifact+"-"+RegistryVersion+"-runner.jar"), nil
}

// avroToolsJar returns the jar with Apache Avro's own tools.
func avroToolsJar(ctx context.Context) (string, error) {
	const artifact = "avro-tools"
	dir, err := cached(ctx, artifact+"-"+avroToolsVersion, func(dir string) error {
		return copyArtifact(ctx, dir, emptyPOM, "org.apache.avro:"+artifact+":"+avroToolsVersion)
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, artifact+"-"+avroToolsVersion+".jar"), nil
}

// examplesVersion changes with the libraries below.
const examplesVersion = "2"

// The libraries that the Java of the manual uses: those of a service with Spring Boot 3.
const examplesPOM = `<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>outboxd</groupId><artifactId>examples</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.springframework.kafka</groupId><artifactId>spring-kafka</artifactId><version>3.3.10</version></dependency>
    <dependency><groupId>org.springframework</groupId><artifactId>spring-jdbc</artifactId><version>6.2.11</version></dependency>
    <dependency><groupId>com.fasterxml.jackson.core</groupId><artifactId>jackson-databind</artifactId><version>2.21.2</version></dependency>
    <dependency><groupId>org.apache.avro</groupId><artifactId>avro</artifactId><version>1.12.0</version></dependency>
    <dependency><groupId>io.cloudevents</groupId><artifactId>cloudevents-kafka</artifactId><version>4.0.1</version></dependency>
    <dependency><groupId>io.cloudevents</groupId><artifactId>cloudevents-json-jackson</artifactId><version>4.0.1</version></dependency>
    <dependency><groupId>com.google.crypto.tink</groupId><artifactId>tink</artifactId><version>1.18.0</version></dependency>
  </dependencies>
</project>
`

// JavaExamples returns the directory with the jars that the Java of the manual uses.
func JavaExamples(ctx context.Context) (string, error) {
	return cached(ctx, "examples-"+examplesVersion, func(dir string) error {
		return maven(ctx, examplesPOM, dependencyPlugin+":copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+dir)
	})
}

// copyArtifact lets Maven put one artifact, group:name:version[:type[:classifier]], into dir.
func copyArtifact(ctx context.Context, dir, pom, artifact string) error {
	return maven(ctx, pom, dependencyPlugin+":copy", "-Dartifact="+artifact, "-DoutputDirectory="+dir)
}

// maven runs one goal in a project of its own that has nothing but a pom.
func maven(ctx context.Context, pom string, args ...string) error {
	if err := need("mvn", "maven"); err != nil {
		return err
	}
	project, err := os.MkdirTemp("", tempPrefix+"maven-*")
	if err != nil {
		return fmt.Errorf("make temporary directory: %w", err)
	}
	defer os.RemoveAll(project)
	if err := os.WriteFile(filepath.Join(project, "pom.xml"), []byte(pom), 0o644); err != nil {
		return fmt.Errorf("write pom: %w", err)
	}
	cmd := exec.CommandContext(ctx, "mvn", append([]string{"-q", "-B", "-Dstyle.color=never"}, args...)...)
	cmd.Dir = project
	return run(ctx, cmd)
}

func javaPath() (string, error) {
	if err := need("java", "openjdk-17-jre-headless"); err != nil {
		return "", err
	}
	return exec.LookPath("java")
}
