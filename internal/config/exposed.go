package config

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

var (
	fileReference = regexp.MustCompile(`\$\{file:([^}]*)\}`)
	// dsnPassword finds a password in a connection string, but for a reference.
	dsnPassword = regexp.MustCompile(`://[^/?#@]*:[^$/?#@][^/?#@]*@|(?:^|[\s?&])(?:ssl)?password\s*=\s*'?[^$\s'&]`)
)

// noteSecret remembers the file that a secret stands in.
func (l *loader) noteSecret(k *key, field reflect.Value, template string) {
	if field.Type() != reflect.TypeFor[Secret]() || k.path == "value.avro.registry" {
		return
	}
	for _, m := range fileReference.FindAllStringSubmatch(template, -1) {
		l.secretFiles = append(l.secretFiles, m[1])
	}
	if k.path == "postgres.dsn" && dsnPassword.MatchString(template) || k.path != "postgres.dsn" && template != "" && !strings.Contains(template, "${") {
		l.secretFiles = append(l.secretFiles, l.path)
	}
}

// Exposed returns the files with a secret in them that every user of the host can
// read, each once. Files in memory are not among them: that is how secrets are put
// into a container, which no other user sees, and their mode is not the operator's.
func (c *Config) Exposed() (files []string) {
	for _, path := range c.secretFiles {
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o004 != 0 && !inMemory(path) && !slices.Contains(files, path) {
			files = append(files, path)
		}
	}
	return files
}
