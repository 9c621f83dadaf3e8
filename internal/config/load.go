package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
)

// maxFileSize bounds what is read of a file: no configuration or secret comes
// near it, and a device or a wrong path must not fill the memory.
const maxFileSize = 1 << 20

// Load reads the configuration file at path, which is [DefaultPath] when empty,
// and applies env, which has the form of [os.Environ]. Without a file at
// DefaultPath, the environment alone is enough if it gives every key that has
// no default. An error is a *[LoadError] with everything that is wrong.
func Load(path string, env []string) (*Config, error) {
	return load(cmp.Or(path, DefaultPath), env, readFile)
}

// LoadWithout is Load for a use that needs none of the named keys, nor those of named
// groups: they may be missing, and what a ${} in them names need not be there. Such a
// key has its default, or is empty. What is given is checked all the same.
func LoadWithout(path string, env []string, keys ...string) (*Config, error) {
	return load(cmp.Or(path, DefaultPath), env, readFile, keys...)
}

func load(path string, env []string, readFile func(string) ([]byte, error), without ...string) (*Config, error) {
	l := &loader{
		path:     path,
		readFile: readFile,
		env:      variables(env),
		config:   Default(),
		origins:  map[string]place{},
		refused:  map[string]bool{},
		without:  without,
	}
	l.findOverrides()
	read := l.decodeFile()
	l.applyOverrides()
	if read {
		l.checkMissing()
		l.checkRelations()
	}
	if err := NewLoadError(l.problems); err != nil {
		return nil, err
	}
	l.config.Kafka.addDefaultPort()
	l.config.origins, l.config.file, l.config.secretFiles = l.origins, l.path, l.secretFiles
	return l.config, nil
}

// loader is the state of one Load.
type loader struct {
	path     string
	readFile func(string) ([]byte, error)
	env      map[string]string

	config    *Config
	overrides map[*key]string  // what the environment gives
	origins   map[string]place // of the keys and groups that were given, by path
	refused   map[string]bool  // the keys that have a problem, by path
	problems  []Problem
	without   []string // keys and groups that need not be there

	secretFiles []string // those that secrets stand in
}

// place is where a value comes from, for messages about it.
type place struct {
	key      string
	line     int
	variable string
	hidden   bool // the value must not be shown
	// references are what the text names in ${}, as it is written there.
	references []string
}

// show returns a value as a message names it.
func (at place) show(value string) string {
	if at.hidden {
		return "the value"
	}
	return show(value)
}

func (l *loader) report(at place, format string, args ...any) {
	problem := Problem{Line: at.line, Variable: at.variable, Key: at.key, Message: fmt.Sprintf(format, args...)}
	if at.variable == "" {
		problem.File = l.path
	}
	l.refused[at.key] = true
	l.problems = append(l.problems, problem)
}

// decodeFile takes over what the file says. It returns false when there is no
// readable file: then all that the file might hold is unknown, and messages
// about it would mislead.
func (l *loader) decodeFile() bool {
	data, err := l.readFile(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && l.path == DefaultPath && l.nothingMissing():
		return true
	case errors.Is(err, fs.ErrNotExist) && l.path == DefaultPath:
		l.report(place{}, "no such file; write one, name another with --config, or set %s", strings.Join(l.requiredVariables(), " and "))
		return false
	case err != nil:
		l.report(place{}, "cannot read the file: %s", reason(err))
		return false
	}
	root, err := parse(bytes.TrimPrefix(data, []byte("\ufeff")))
	var syntax *syntaxError
	if errors.As(err, &syntax) {
		l.problems = append(l.problems, Problem{File: l.path, Line: syntax.line, Column: syntax.column, Message: syntax.message})
		return false
	}
	if root != nil {
		l.decodeGroup(schema(), reflect.ValueOf(l.config).Elem(), root, place{line: root.line})
	}
	return true
}

// nothingMissing tells whether the environment gives all that has no default.
func (l *loader) nothingMissing() bool {
	for k := range schema().leaves() {
		if l.requires(k) && l.overrides[k] == "" {
			return false
		}
	}
	return true
}

// requires tells a key that has no default and must be given.
func (l *loader) requires(k *key) bool { return k.required && !l.dispensable(k.path) }

// dispensable tells a key that need not be there, although it may be one of those
// that must be given.
func (l *loader) dispensable(path string) bool {
	return slices.ContainsFunc(l.without, func(name string) bool {
		rest, found := strings.CutPrefix(path, name)
		return found && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// reportReference reports a ${} that cannot be replaced.
func (l *loader) reportReference(at place, err error) {
	if l.dispensable(at.key) {
		l.refused[at.key] = true
		return
	}
	l.report(at, "%s", err)
}

func (l *loader) requiredVariables() []string {
	var names []string
	for k := range schema().leaves() {
		if l.requires(k) {
			names = append(names, k.variable)
		}
	}
	return names
}

// checkMissing reports the keys without a default that nothing gives.
func (l *loader) checkMissing() {
	for k := range schema().leaves() {
		if !l.requires(k) || !isEmpty(k.of(l.config)) || l.refused[k.path] {
			continue
		}
		if at, given := l.origins[k.path]; given {
			l.report(at, "must not be empty")
			continue
		}
		group := l.origins[k.path[:strings.LastIndex(k.path, ".")]]
		l.report(place{key: k.path, line: group.line}, "missing; give it here or as %s", k.variable)
	}
}

// isEmpty tells a required key's field without a value.
func isEmpty(field reflect.Value) bool {
	if secret, ok := field.Interface().(Secret); ok {
		return secret.IsEmpty()
	}
	return field.Len() == 0
}

// readFile is os.ReadFile with a bound.
func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err == nil && len(data) > maxFileSize {
		err = fmt.Errorf("larger than %s", ByteSize(maxFileSize))
	}
	return data, err
}

// reason is an error of the file system without the path, which the message has
// already.
func reason(err error) string {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err.Error()
	}
	return err.Error()
}
