package config

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// decodeGroup sets the fields of a struct of keys. into is the struct and holds
// its defaults; the indexes of group's keys count from it.
func (l *loader) decodeGroup(group *key, into reflect.Value, n *node, at place) {
	if n.kind == null {
		return // "kafka:" with every key below it commented out
	}
	if !l.expect(mapping, group, n, at) {
		return
	}
	seen := map[string]int{}
	for _, e := range n.entries {
		name := at
		name.key = strings.TrimPrefix(at.key+"."+show(e.key), ".")
		name.line = e.line
		k := group.child(e.key)
		first, duplicate := seen[e.key]
		switch {
		case duplicate:
			l.report(name, "duplicate key; it is on line %d already", first)
		case k == nil:
			l.reportUnknown(group, e, at, name)
		case k.keys != nil:
			l.origins[name.key] = name
			l.decodeGroup(k, into, e.value, name)
		default:
			l.decodeKey(k, into, e.value, name)
		}
		if !duplicate {
			seen[e.key] = e.line
		}
	}
}

// decodeKey sets the field of a key that is no group, unless the environment
// does.
func (l *loader) decodeKey(k *key, into reflect.Value, n *node, at place) {
	if _, overridden := l.overrides[k]; overridden {
		return
	}
	at.hidden = k.isSecret()
	l.origins[at.key] = at
	l.decode(k, into.FieldByIndex(k.index), n, at)
}

// decode sets a field from a node by the field's type.
func (l *loader) decode(k *key, field reflect.Value, n *node, at place) {
	switch field.Kind() {
	case reflect.Slice:
		if k.typ == reflect.TypeFor[Pairs]() {
			l.decodePairs(k, field, n, at)
			return
		}
		l.decodeList(k, field, n, at)
	case reflect.Map:
		l.decodeMap(k, field, n, at)
	default:
		l.decodeScalar(k, field, n, at)
	}
}

func (l *loader) decodeList(k *key, field reflect.Value, n *node, at place) {
	if k.isTextList() && n.kind == text {
		// One reference may stand for the whole list: ${BROKERS}.
		list, replaced, err := l.substitute(n.text)
		if err != nil {
			l.reportReference(at, err)
			return
		}
		if replaced {
			at.hidden, at.references = true, references(n.text)
			l.origins[at.key] = at
			l.setList(k, field, list, at)
			return
		}
	}
	if !l.expect(sequence, k, n, at) {
		return
	}
	if len(n.items) == 0 {
		field.SetZero()
		return
	}
	if !l.built(k, at) {
		return
	}
	list := reflect.MakeSlice(field.Type(), len(n.items), len(n.items))
	for i, item := range n.items {
		element := at
		element.key = at.key + "[" + strconv.Itoa(i) + "]"
		element.line = item.line
		l.decodeElement(k, list.Index(i), item, element)
	}
	field.Set(list)
}

// decodeElement sets one element of a list: text, or a struct of keys.
func (l *loader) decodeElement(k *key, element reflect.Value, n *node, at place) {
	if element.Kind() != reflect.Struct {
		l.decodeScalar(&key{typ: element.Type(), check: k.check}, element, n, at)
		return
	}
	group := &key{typ: element.Type(), keys: keysOf(element.Type(), &key{})}
	for _, k := range group.keys {
		k.setDefault(element.FieldByIndex(k.index))
	}
	l.decodeGroup(group, element, n, at)
	if l.refused[at.key] {
		return // no mapping
	}
	for _, k := range group.keys {
		name := at.key + "." + k.name
		if _, given := l.origins[name]; k.required && !given {
			l.report(place{key: name, line: at.line}, "missing")
		}
	}
}

// decodeMap sets a map with names of the user's choice.
func (l *loader) decodeMap(k *key, field reflect.Value, n *node, at place) {
	if !l.expect(mapping, k, n, at) || len(n.entries) == 0 || !l.built(k, at) {
		return
	}
	element := &key{typ: field.Type().Elem()}
	values := reflect.MakeMap(field.Type())
	for _, e := range n.entries {
		name := at
		name.key, name.line, name.hidden = at.key+"."+show(e.key), e.line, k.isSecret()
		if values.MapIndex(reflect.ValueOf(e.key)).IsValid() {
			l.report(name, "duplicate key")
			continue
		}
		value := reflect.New(element.typ).Elem()
		l.origins[name.key] = name
		if n := e.value; n.kind == integer || n.kind == float || n.kind == boolean {
			// What these maps hold is text by nature, as Kafka's retention.ms: 1000.
			l.setScalar(element, value, n.text, name)
		} else {
			l.decodeScalar(element, value, n, name)
		}
		values.SetMapIndex(reflect.ValueOf(e.key), value)
	}
	field.Set(values)
}

// decodePairs sets a mapping to columns whose order counts.
func (l *loader) decodePairs(k *key, field reflect.Value, n *node, at place) {
	if !l.expect(mapping, k, n, at) || len(n.entries) == 0 || !l.built(k, at) {
		return
	}
	element := &key{typ: reflect.TypeFor[string](), check: checks["column name"]}
	var pairs Pairs
	for _, e := range n.entries {
		name := at
		name.key, name.line = at.key+"."+show(e.key), e.line
		if slices.ContainsFunc(pairs, func(p Pair) bool { return p.Name == e.key }) {
			l.report(name, "duplicate key")
			continue
		}
		value := reflect.New(element.typ).Elem()
		l.origins[name.key] = name
		l.decodeScalar(element, value, e.value, name)
		pairs = append(pairs, Pair{e.key, value.String()})
	}
	field.Set(reflect.ValueOf(pairs))
}

// decodeScalar sets a field that holds one value.
func (l *loader) decodeScalar(k *key, field reflect.Value, n *node, at place) {
	value := n.text
	switch {
	case n.kind == text:
		l.noteSecret(k, field, value)
		substituted, replaced, err := l.substitute(value)
		if err != nil {
			l.reportReference(at, err)
			return
		}
		if replaced {
			// The text is of any type now, and perhaps a secret.
			at.hidden, at.references = true, references(n.text)
			l.origins[at.key] = at
			defer l.remember(field, n.text)
		} else if typ := field.Kind(); typ == reflect.Bool || typ == reflect.Int {
			l.expectKind(false, k, n, at)
			return
		}
		value = substituted
	case n.kind == null && slices.Contains(k.enum, n.text):
		// The word null without quotes, where it is one of the words.
	case n.kind == null:
		l.report(at, "has no value; want %s", want(k.typ))
		return
	case !l.expectKind(fits(n.kind, field), k, n, at):
		return
	}
	l.setScalar(k, field, value, at)
}

// fits tells whether a YAML value that is not text can be a field's.
func fits(k kind, field reflect.Value) bool {
	switch k {
	case boolean:
		return field.Kind() == reflect.Bool
	case integer:
		return field.Kind() == reflect.Int || field.Kind() == reflect.Int64 || field.Type() == reflect.TypeFor[Rewind]()
	default:
		return false
	}
}

// setList sets a list of text from one text with commas.
func (l *loader) setList(k *key, field reflect.Value, list string, at place) {
	if strings.TrimSpace(list) == "" {
		field.SetZero()
		return
	}
	if !l.built(k, at) {
		return
	}
	parts := strings.Split(list, ",")
	values := reflect.MakeSlice(field.Type(), len(parts), len(parts))
	for i, part := range parts {
		l.setScalar(&key{typ: field.Type().Elem(), check: k.check}, values.Index(i), strings.TrimSpace(part), at)
	}
	field.Set(values)
}

// setScalar sets a field from its text, if the key's rules allow it.
func (l *loader) setScalar(k *key, field reflect.Value, value string, at place) {
	parsed := reflect.New(field.Type()).Elem()
	if err := setText(parsed, value); err != nil {
		l.report(at, "%s %s", at.show(value), err)
		return
	}
	complaint := ""
	switch {
	case k.enum != nil && !slices.Contains(k.enum, value):
		complaint = "is not one of " + showAll(k.enum)
	case slices.Contains(k.unbuilt, value), k.isUnbuilt() && parsed.Interface() != defaultOf(k):
		complaint = "is not built yet; this version has " + showAll(k.builtWords())
	case beyond(parsed, k.min, -1):
		complaint = "is less than " + k.min
	case beyond(parsed, k.max, 1):
		complaint = "is more than " + k.max
	case k.check != nil && !(value == "" && k.required):
		complaint = k.check(value) // an empty required key gets a clearer message later
	}
	if complaint != "" {
		l.report(at, "%s %s", at.show(value), complaint)
		return
	}
	field.Set(parsed)
}

// remember lets a secret that was set read its files again.
func (l *loader) remember(field reflect.Value, template string) {
	secret, ok := field.Addr().Interface().(*Secret)
	if !ok || !strings.Contains(template, "${file:") {
		return
	}
	secret.from = &reference{template, func(template string) (string, error) {
		text, _, err := l.substitute(template)
		return text, err
	}}
}

func defaultOf(k *key) any {
	field := reflect.New(k.typ).Elem()
	k.setDefault(field)
	return field.Interface()
}

// built reports a key that holds something although this version cannot.
func (l *loader) built(k *key, at place) bool {
	if k.isUnbuilt() {
		l.report(at, "not built yet; leave it out")
		return false
	}
	return true
}

// expect reports a node of another kind than wanted.
func (l *loader) expect(want kind, k *key, n *node, at place) bool {
	return l.expectKind(n.kind == want, k, n, at)
}

// expectKind reports a node that does not fit, and returns whether it does.
func (l *loader) expectKind(fits bool, k *key, n *node, at place) bool {
	switch {
	case fits:
	case n.kind == unsupported:
		l.report(at, "%s", n.text)
	case n.kind == mapping && want(k.typ) == "text":
		l.report(at, "got %s; want text, in quotes if it begins with {", n.kind)
	case n.kind == null || n.kind >= sequence || k.keys != nil:
		l.report(at, "got %s; want %s", n.kind, want(k.typ))
	case want(k.typ) == "text":
		l.report(at, "%s is %s; want text, so put it in quotes", at.show(n.text), n.kind)
	default:
		l.report(at, "%s is %s; want %s", at.show(n.text), n.kind, want(k.typ))
	}
	return fits
}
