package config

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// key is one key of the file, a leaf or a group of further keys, as the struct
// tags define it.
type key struct {
	name     string // its last part: dsn
	path     string // postgres.dsn
	variable string // OUTBOXD_POSTGRES_DSN
	typ      reflect.Type
	index    []int  // of the field, from Config down
	keys     []*key // of a group, in the order of the fields

	deflt    string
	enum     []string
	min, max string
	check    func(string) string
	required bool
	unbuilt  []string // values; or unbuiltKey
}

// unbuiltKey marks a key whose every value but the default is refused.
const unbuiltKey = "*"

// schema is the root group: all keys of Config.
var schema = sync.OnceValue(func() *key {
	typ := reflect.TypeFor[Config]()
	return &key{typ: typ, keys: keysOf(typ, &key{})}
})

// keysOf returns the keys that a struct's fields define.
func keysOf(typ reflect.Type, parent *key) []*key {
	var keys []*key
	for i := range typ.NumField() {
		field := typ.Field(i)
		if !field.IsExported() {
			continue
		}
		k := &key{
			name:     field.Tag.Get("yaml"),
			typ:      field.Type,
			index:    slices.Concat(parent.index, []int{i}),
			deflt:    field.Tag.Get("default"),
			min:      field.Tag.Get("min"),
			max:      field.Tag.Get("max"),
			required: field.Tag.Get("required") == "yes",
			unbuilt:  split(field.Tag.Get("unbuilt")),
		}
		k.path = strings.TrimPrefix(parent.path+"."+k.name, ".")
		k.variable = variablePrefix + strings.ToUpper(strings.ReplaceAll(k.path, ".", "_"))
		if enum, ok := field.Tag.Lookup("enum"); ok {
			k.enum = strings.Split(enum, ",")
		}
		if name, ok := field.Tag.Lookup("check"); ok {
			k.check = checks[name]
			if k.check == nil {
				panic(fmt.Sprintf("config: %s: no check is called %q", k.path, name))
			}
		}
		if parent.isUnbuilt() {
			k.unbuilt = []string{unbuiltKey}
		}
		if isGroup(field.Type) {
			k.keys = keysOf(field.Type, k)
		}
		keys = append(keys, k)
	}
	return keys
}

// isGroup tells a struct of keys from one that is read from text.
func isGroup(typ reflect.Type) bool {
	return typ.Kind() == reflect.Struct && !reflect.PointerTo(typ).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// leaves yields all keys below k that are not groups, in the fields' order.
func (k *key) leaves() iter.Seq[*key] {
	return func(yield func(*key) bool) { k.visitLeaves(yield) }
}

func (k *key) visitLeaves(yield func(*key) bool) bool {
	if k.keys == nil {
		return yield(k)
	}
	for _, child := range k.keys {
		if !child.visitLeaves(yield) {
			return false
		}
	}
	return true
}

// child returns the key of that name in a group, or nil.
func (k *key) child(name string) *key {
	for _, child := range k.keys {
		if child.name == name {
			return child
		}
	}
	return nil
}

// of returns k's field in c.
func (k *key) of(c *Config) reflect.Value {
	return reflect.ValueOf(c).Elem().FieldByIndex(k.index)
}

// isSecret tells keys whose values, or some of them, no message may show.
func (k *key) isSecret() bool {
	typ := k.typ
	if typ.Kind() == reflect.Map || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	return typ == reflect.TypeFor[Secret]()
}

// isScalar tells keys that hold one value.
func (k *key) isScalar() bool {
	return k.keys == nil && k.typ.Kind() != reflect.Slice && k.typ.Kind() != reflect.Map
}

// isTextList tells keys that an environment variable can give with commas.
func (k *key) isTextList() bool { return k.typ == reflect.TypeFor[[]string]() }

// isUnbuilt tells keys of which only the default is allowed.
func (k *key) isUnbuilt() bool { return slices.Contains(k.unbuilt, unbuiltKey) }

// builtWords are the words of enum that this version has.
func (k *key) builtWords() []string {
	if k.isUnbuilt() {
		return []string{k.deflt}
	}
	return slices.DeleteFunc(slices.Clone(k.enum), func(word string) bool {
		return slices.Contains(k.unbuilt, word)
	})
}

// setDefault sets a field to its key's default.
func (k *key) setDefault(field reflect.Value) {
	field.SetZero()
	if k.deflt == "" {
		return
	}
	if k.isTextList() {
		field.Set(reflect.ValueOf(strings.Split(k.deflt, ",")))
		return
	}
	if err := setText(field, k.deflt); err != nil {
		panic(fmt.Sprintf("config: the default of %s: %v", k.path, err))
	}
}

// setText sets a scalar field from its text. The error's text can stand after
// the value in a sentence, and does not contain it.
func setText(field reflect.Value, text string) error {
	switch target := field.Addr().Interface().(type) {
	case encoding.TextUnmarshaler:
		return target.UnmarshalText([]byte(text))
	case *time.Duration:
		d, err := parseDuration(text)
		if err != nil {
			return err
		}
		*target = d
	case *bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return errors.New("is neither true nor false")
		}
		*target = b
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return errors.New("is not a whole number")
		}
		*target = n
	default:
		field.SetString(text)
	}
	return nil
}

// beyond tells whether a scalar field's value is less (side -1) or more (side 1)
// than the text bound; "" bounds nothing.
func beyond(field reflect.Value, bound string, side int) bool {
	if bound == "" {
		return false
	}
	last := reflect.New(field.Type()).Elem()
	if err := setText(last, bound); err != nil {
		panic(fmt.Sprintf("config: bound %q: %v", bound, err))
	}
	return cmp.Compare(field.Int(), last.Int()) == side
}

// want describes what a type's value looks like.
func want(typ reflect.Type) string {
	switch typ {
	case reflect.TypeFor[time.Duration]():
		return "a duration such as 100ms, 30s, 24h or 7d"
	case reflect.TypeFor[ByteSize]():
		return "a size such as 64MiB, 500KB or 1000000"
	case reflect.TypeFor[Rewind]():
		return "a duration or a size"
	case reflect.TypeFor[Processors]():
		return "auto or a number of processors"
	case reflect.TypeFor[MemoryLimit]():
		return "auto, off or a size such as 256MiB"
	case reflect.TypeFor[Secret]():
		return "text"
	case reflect.TypeFor[Table]():
		return "a table name such as public.outbox"
	case reflect.TypeFor[Pairs]():
		return "a mapping"
	}
	switch typ.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "a mapping"
	default:
		return "text"
	}
}

// split is strings.Split, but of nothing into nothing.
func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
