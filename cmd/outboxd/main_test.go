package main

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// outcome is what a command leaves behind.
type outcome struct {
	code           int
	stdout, stderr string
}

// outboxd runs a command line as the shell would. The environment of whoever
// runs the test has no say.
func outboxd(t *testing.T, args ...string) outcome {
	t.Helper()
	return outboxdWith(t, nil, args...)
}

// outboxdWith is outboxd with some variables.
func outboxdWith(t *testing.T, env []string, args ...string) outcome {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, value, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "OUTBOXD_") {
			t.Setenv(name, value) // so that the end of the test restores it
			os.Unsetenv(name)
		}
	}
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		t.Setenv(name, value)
	}
	var stdout, stderr bytes.Buffer
	if args == nil {
		args = []string{} // nil would be those of the test's own process
	}
	code := run(args, &stdout, &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

// last is the last line on stderr, the one that has to be of use to an operator
// who sees nothing else.
func (o outcome) last(t *testing.T) string {
	t.Helper()
	rest, ok := strings.CutSuffix(o.stderr, "\n")
	if !ok {
		t.Errorf("stderr does not end with a whole line: %q", o.stderr)
	}
	return rest[strings.LastIndex(rest, "\n")+1:]
}

// write makes a configuration file.
func write(t *testing.T, content string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "outboxd.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const good = `postgres:
  dsn: postgres://app:hush-hush@127.0.0.1:1/shop
kafka:
  brokers: ["127.0.0.1:1"]
http: {listen: ""}
`

func TestBadCommandLine(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		says []string
	}{
		"unknown flag":             {[]string{"run", "--no-such-flag"}, []string{"--no-such-flag"}},
		"unknown command":          {[]string{"stream"}, []string{"stream"}},
		"unknown command, a typo":  {[]string{"ru"}, []string{"ru"}},
		"flag without its value":   {[]string{"run", "--config"}, []string{"--config"}},
		"argument too many":        {[]string{"run", "outboxd.yaml"}, []string{"outboxd.yaml"}},
		"argument of version":      {[]string{"version", "2"}, []string{"2"}},
		"value of a switch":        {[]string{"run", "--accept-gap=perhaps"}, []string{"accept-gap", "perhaps"}},
		"flag of another command":  {[]string{"init", "--accept-gap"}, []string{"--accept-gap"}},
		"unknown flag, no command": {[]string{"--fast"}, []string{"--fast"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := outboxd(t, c.args...)
			if o.code != exitUsage {
				t.Errorf("exit code %d, want %d", o.code, exitUsage)
			}
			last := o.last(t)
			for _, want := range append(c.says, "outboxd: ", "see `outboxd --help`") {
				if !strings.Contains(last, want) {
					t.Errorf("the last line is %q, without %q", last, want)
				}
			}
			if o.stdout != "" {
				t.Errorf("stdout: %q", o.stdout)
			}
		})
	}
}

func TestMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nowhere.yaml")
	for _, command := range []string{"run", "init", "config"} {
		o := outboxd(t, command, "--config", path)
		if o.code != exitUsage {
			t.Errorf("%s: exit code %d, want %d", command, o.code, exitUsage)
		}
		if !strings.Contains(o.stderr, path) {
			t.Errorf("%s does not name the file that is missing: %s", command, o.stderr)
		}
		if last := o.last(t); !strings.HasPrefix(last, "outboxd: ") {
			t.Errorf("%s: the last line is %q", command, last)
		}
	}
}

// The file comes from --config, else from the environment, else it has the
// default name.
func TestConfigFile(t *testing.T) {
	bad := write(t, "nonsense: 1\n")
	named := write(t, good)
	t.Chdir(t.TempDir())

	o := outboxd(t, "run")
	if o.code != exitUsage || !strings.Contains(o.stderr, "outboxd.yaml") {
		t.Errorf("without a file: exit code %d, %s", o.code, o.stderr)
	}
	withEnvironment := func(args ...string) (code int, stderr string) {
		t.Helper()
		t.Setenv("OUTBOXD_CONFIG", bad)
		var stdout, errors bytes.Buffer
		return run(args, &stdout, &errors), errors.String()
	}
	if code, stderr := withEnvironment("init"); code != exitUsage || !strings.Contains(stderr, "nonsense") {
		t.Errorf("OUTBOXD_CONFIG is not read: exit code %d, %s", code, stderr)
	}
	if code, stderr := withEnvironment("init", "--config", named); code != 0 {
		t.Errorf("--config does not come before OUTBOXD_CONFIG: exit code %d, %s", code, stderr)
	}
}

// All that is wrong is said at once, each with its key and its line.
func TestConfigProblems(t *testing.T) {
	path := write(t, `postgres:
  dsn: postgres://app:hush-hush@db/shop
  slto: orders
outbox:
  columns: {payload: 7, id: id}
kafka:
  compression: rar
delivery:
  confirm_interval: soon
`)
	for _, command := range []string{"run", "config"} {
		o := outboxd(t, command, "--config", path)
		if o.code != exitUsage {
			t.Errorf("%s: exit code %d, want %d", command, o.code, exitUsage)
		}
		lines := strings.Split(strings.TrimSuffix(o.stderr, "\n"), "\n")
		for _, want := range []struct{ key, line string }{
			{"postgres.slto", ":3"}, {"kafka.compression", ":7"}, {"delivery.confirm_interval", ":9"}, {"kafka.brokers", ""},
		} {
			found := false
			for _, l := range lines[:len(lines)-1] {
				found = found || strings.Contains(l, want.key) && strings.Contains(l, want.line)
			}
			if !found {
				t.Errorf("%s: no line names key %s and line %s:\n%s", command, want.key, want.line, o.stderr)
			}
		}
		if last := o.last(t); !strings.Contains(last, "problems") {
			t.Errorf("%s: the last line is %q", command, last)
		}
		if strings.Contains(o.stderr, "hush-hush") {
			t.Errorf("%s shows a password:\n%s", command, o.stderr)
		}
	}
}

func TestOneProblem(t *testing.T) {
	o := outboxd(t, "init", "--config", write(t, good+"nonsense: 1\n"))
	if last := o.last(t); o.code != exitUsage || last != "outboxd: the configuration has 1 problem; correct it and start again" {
		t.Errorf("exit code %d, last line %q", o.code, last)
	}
}

func TestHelp(t *testing.T) {
	for _, c := range rootCommand(t.Context()).Commands() {
		t.Run(c.Name(), func(t *testing.T) {
			o := outboxd(t, c.Name(), "--help")
			if o.code != 0 || o.stderr != "" {
				t.Errorf("exit code %d, stderr %q", o.code, o.stderr)
			}
			_, example, found := strings.Cut(o.stdout, "Examples:")
			if !found || !strings.Contains(example, "outboxd "+c.Name()) {
				t.Errorf("no example:\n%s", o.stdout)
			}
			if c.Short == "" || !strings.Contains(o.stdout, "--config") {
				t.Errorf("it does not say what it does and where its configuration is:\n%s", o.stdout)
			}
			if again := outboxd(t, "help", c.Name()); again != o {
				t.Errorf("`outboxd help %s` says something else:\n%s", c.Name(), again.stdout)
			}
		})
	}
}

func TestRootHelp(t *testing.T) {
	plain, help := outboxd(t), outboxd(t, "--help")
	if help.code != 0 || help.stderr != "" || plain != help {
		t.Errorf("outboxd: %+v\noutboxd --help: %+v", plain, help)
	}
	for _, c := range rootCommand(t.Context()).Commands() {
		if !strings.Contains(help.stdout, c.Name()) || !strings.Contains(help.stdout, c.Short) {
			t.Errorf("the help does not list %s:\n%s", c.Name(), help.stdout)
		}
	}
}

func TestVersion(t *testing.T) {
	o := outboxd(t, "version")
	fields := strings.Fields(o.stdout)
	if o.code != 0 || o.stderr != "" || len(fields) < 5 || strings.Count(o.stdout, "\n") != 1 {
		t.Fatalf("%+v", o)
	}
	if fields[0] != "outboxd" || fields[1] != version || fields[2] != "commit" || fields[3] == "" || !strings.Contains(o.stdout, runtime.Version()) {
		t.Errorf("%q: it has to tell version, commit and Go version", o.stdout)
	}
}

// init prints; it needs no database, and no broker.
func TestInitPrints(t *testing.T) {
	path := write(t, good)
	o := outboxd(t, "init", "--config", path)
	if o.code != 0 || o.stderr != "" {
		t.Fatalf("exit code %d, stderr %q", o.code, o.stderr)
	}
	for _, want := range []string{
		`CREATE TABLE IF NOT EXISTS "public"."outbox"`,
		`"aggregatetype" text NOT NULL`,
		`CREATE ROLE "outboxd" LOGIN`, `ALTER ROLE "outboxd" REPLICATION`,
		`CREATE PUBLICATION "outboxd" FOR TABLE "public"."outbox" WITH (publish = 'insert', publish_via_partition_root = true)`,
		`pg_create_logical_replication_slot('outboxd', 'pgoutput')`,
	} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("the script has no %s:\n%s", want, o.stdout)
		}
	}
	for line := range strings.Lines(o.stdout) {
		if strings.HasPrefix(line, "--") && strings.Contains(line, ";\n") {
			t.Errorf("a statement in a comment: %q", line)
		}
	}
	if strings.Contains(o.stdout, "hush-hush") {
		t.Error("the script shows the password")
	}
	if o := outboxd(t, "init", "--config", path, "--role", ""); o.code != 0 || strings.Contains(o.stdout, "ROLE") {
		t.Errorf(`--role "" does not leave roles alone: exit code %d`, o.code)
	}
}

// A database that is not there is the operator's matter, not one of the command
// line.
func TestInitApplyWithoutDatabase(t *testing.T) {
	o := outboxd(t, "init", "--apply", "--config", write(t, good))
	if last := o.last(t); o.code != exitFailed || !strings.HasPrefix(last, "outboxd: connect to PostgreSQL: ") {
		t.Errorf("exit code %d, last line %q", o.code, last)
	}
	if strings.Contains(o.stderr, "hush-hush") {
		t.Errorf("the error shows the password: %s", o.stderr)
	}
}

// What makes `run` impossible before it has begun to stream ends it, with the
// key that is to be mended.
func TestRunCannotBegin(t *testing.T) {
	taken := write(t, strings.Replace(good, `{listen: ""}`, `{listen: "256.0.0.1:http"}`, 1))
	noCA := write(t, strings.Replace(good, "kafka:\n", "kafka:\n  tls: {enabled: true, ca: "+filepath.Join(t.TempDir(), "ca.pem")+"}\n", 1))
	for name, c := range map[string]struct {
		path string
		code int
		says string
	}{
		"address": {taken, exitFailed, "http.listen"},
		"ca":      {noCA, exitFailed, "kafka.tls.ca"},
	} {
		o := outboxd(t, "run", "--config", c.path)
		if o.code != c.code && o.code != exitUsage || !strings.Contains(o.stderr, c.says) {
			t.Errorf("%s: exit code %d, stderr %s", name, o.code, o.stderr)
		}
		if last := o.last(t); !strings.HasPrefix(last, "outboxd: ") {
			t.Errorf("%s: the last line is %q", name, last)
		}
	}
}
