package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Every warning and error that the program logs has a row in docs/log-messages.md, with
// its level, and every row there is a message that the program logs.
func TestLogMessagesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/log-messages.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]string)
	for line := range strings.Lines(string(page)) {
		row := regexp.MustCompile("^\\| (`+) ?(.+?) ?`+ \\| ([a-z, ]+) \\| (.+?) \\| (.+?) \\|$").FindStringSubmatch(strings.TrimSpace(line))
		switch {
		case row != nil && documented[row[2]] != "":
			t.Errorf("docs/log-messages.md has %q twice", row[2])
		case row != nil:
			documented[row[2]] = row[3]
		case strings.HasPrefix(line, "| `"):
			t.Errorf("docs/log-messages.md has a row that is not message, level, meaning, what to do: %s", line)
		}
	}
	logged := messagesOf(t)
	if len(logged) < 50 {
		t.Errorf("only %d messages were found in the sources", len(logged))
	}
	for _, text := range slices.Sorted(maps.Keys(logged)) {
		m := logged[text]
		switch level := documented[text]; {
		case level == "":
			t.Errorf("docs/log-messages.md lacks a row for the message of %s: %q, level %s", m.at, text, m.level)
		case level != m.level:
			t.Errorf("docs/log-messages.md has level %s for %q, and %s logs it with level %s", level, text, m.at, m.level)
		}
	}
	for _, text := range slices.Sorted(maps.Keys(documented)) {
		if _, there := logged[text]; !there {
			t.Errorf("docs/log-messages.md has a row that no code logs: %q", text)
		}
	}
}

// logMessage is a message that code logs.
type logMessage struct {
	level string
	at    token.Position
}

// messagesOf finds the messages of level warn and error in the sources of the program. What
// is put into a message when it is logged is … in it.
func messagesOf(t *testing.T) map[string]logMessage {
	t.Helper()
	s := readSources(t)
	found := make(map[string]logMessage)
	for _, p := range s.packages {
		for _, f := range p {
			for _, d := range f.Decls {
				function, ok := d.(*ast.FuncDecl)
				if !ok || function.Body == nil {
					continue
				}
				ast.Inspect(function.Body, func(n ast.Node) bool {
					call, ok := n.(*ast.CallExpr)
					if !ok || len(call.Args) != 1 {
						return true
					}
					if method, ok := call.Fun.(*ast.SelectorExpr); !ok || method.Sel.Name != "Msg" && method.Sel.Name != "Msgf" {
						return true
					}
					level, at := s.level(call.Fun.(*ast.SelectorExpr).X, function), s.files.Position(call.Pos())
					if level == "" {
						return true
					}
					texts := s.texts(call.Args[0], scope{p, function}, 0)
					if len(texts) == 0 {
						t.Errorf("%s: what this logs is not found in the sources", at)
					}
					for _, text := range texts {
						found[text] = logMessage{level, at}
					}
					return true
				})
			}
		}
	}
	return found
}

// sources are those of the program: all but tests and what only they use.
type sources struct {
	files    *token.FileSet
	packages map[string][]*ast.File // by folder
}

func readSources(t *testing.T) *sources {
	s := &sources{token.NewFileSet(), make(map[string][]*ast.File)}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel("../..", path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{"e2e", "docker", ".git", "internal/testbed", "internal/simulate"}, filepath.ToSlash(name)):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(s.files, path, nil, parser.SkipObjectResolution)
		s.packages[filepath.Dir(path)] = append(s.packages[filepath.Dir(path)], f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// scope is where an expression stands.
type scope struct {
	files    []*ast.File   // of its package
	function *ast.FuncDecl // nil: outside
}

// level is the level of the event that x makes, "" where it is below warn, and of anything
// else.
func (s *sources) level(x ast.Expr, function *ast.FuncDecl) string {
	switch x := x.(type) {
	case *ast.CallExpr:
		method, ok := x.Fun.(*ast.SelectorExpr)
		switch {
		case !ok:
		case method.Sel.Name == "WithLevel":
			return "info, warn" // by what it is about
		case len(x.Args) == 0 && method.Sel.Name == "Warn":
			return "warn"
		case len(x.Args) == 0 && method.Sel.Name == "Error":
			return "error"
		default:
			return s.level(method.X, function)
		}
	case *ast.Ident: // an event that was begun above
		for _, value := range assigned(function.Body, x.Name) {
			if v, ok := value.(*ast.CallExpr); ok && v.End() < x.Pos() {
				if level := s.level(v, function); level != "" {
					return level
				}
			}
		}
	}
	return ""
}

// texts are what x may be: without those of which nothing is known.
func (s *sources) texts(x ast.Expr, at scope, depth int) []string {
	var known []string
	for _, text := range s.possible(x, at, depth) {
		if text = regexp.MustCompile(`…+`).ReplaceAllString(text, "…"); text != "…" {
			known = append(known, text)
		}
	}
	slices.Sort(known)
	return slices.Compact(known)
}

func (s *sources) possible(x ast.Expr, at scope, depth int) (texts []string) {
	if depth > 6 {
		return nil
	}
	switch x := x.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(x.Value); err == nil && x.Kind == token.STRING && text != "" {
			return []string{text}
		}
	case *ast.BinaryExpr:
		left, right := orUnknown(s.texts(x.X, at, depth+1)), orUnknown(s.texts(x.Y, at, depth+1))
		for _, l := range left {
			for _, r := range right {
				texts = append(texts, l+r)
			}
		}
	case *ast.Ident:
		var values []ast.Expr
		if at.function != nil {
			values = assigned(at.function.Body, x.Name)
		}
		if len(values) == 0 {
			values = declared(at.files, x.Name)
		}
		for _, value := range values {
			texts = append(texts, s.texts(value, at, depth+1)...)
		}
	case *ast.SelectorExpr: // a field: whatever the package, or one that it imports, gives to one of its name
		for folder, files := range s.packages {
			if !slices.Equal(files, at.files) && !imports(at.files, folder) {
				continue
			}
			for _, f := range files {
				for _, value := range assigned(f, "."+x.Sel.Name) {
					texts = append(texts, s.texts(value, scope{files: files}, depth+1)...)
				}
			}
		}
	case *ast.CallExpr:
		name := ""
		switch f := x.Fun.(type) {
		case *ast.Ident:
			name = f.Name
		case *ast.SelectorExpr:
			name = f.Sel.Name
		}
		if name == "Sprintf" {
			for _, text := range s.texts(x.Args[0], at, depth+1) {
				texts = append(texts, regexp.MustCompile(`%[a-z]`).ReplaceAllString(text, "…"))
			}
			return texts
		}
		for _, files := range s.packages {
			if _, local := x.Fun.(*ast.Ident); local && !slices.Equal(files, at.files) {
				continue
			}
			for _, result := range returned(files, name) {
				texts = append(texts, s.texts(result.value, scope{files, result.by}, depth+1)...)
			}
		}
	}
	return texts
}

// imports tells whether one of the files imports the package in the folder.
func imports(files []*ast.File, folder string) bool {
	path := "outboxd/" + filepath.ToSlash(strings.TrimPrefix(folder, filepath.Join("..", "..")+string(filepath.Separator)))
	return slices.ContainsFunc(files, func(f *ast.File) bool {
		return slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == strconv.Quote(path) })
	})
}

func orUnknown(texts []string) []string {
	if len(texts) == 0 {
		return []string{"…"}
	}
	return texts
}

// assigned are the values that are assigned in n to the variable of the name, or, if the
// name begins with a dot, to the fields of that name.
func assigned(n ast.Node, name string) (values []ast.Expr) {
	field, isField := strings.CutPrefix(name, ".")
	named := func(x ast.Expr) bool {
		switch x := x.(type) {
		case *ast.Ident:
			return !isField && x.Name == name
		case *ast.SelectorExpr:
			return isField && x.Sel.Name == field
		}
		return false
	}
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for i, left := range n.Lhs {
				if named(left) && (i == 0 || len(n.Rhs) > i) {
					values = append(values, n.Rhs[i])
				}
			}
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && isField && key.Name == field {
				values = append(values, n.Value)
			}
		}
		return true
	})
	return values
}

// declared are the values of the package's constant or variable of the name.
func declared(files []*ast.File, name string) (values []ast.Expr) {
	for _, f := range files {
		for _, d := range f.Decls {
			group, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range group.Specs {
				value, ok := spec.(*ast.ValueSpec)
				if !ok {
					continue
				}
				for i, n := range value.Names {
					if n.Name == name && i < len(value.Values) {
						values = append(values, value.Values[i])
					}
				}
			}
		}
	}
	return values
}

// result is the first one of a return statement.
type result struct {
	value ast.Expr
	by    *ast.FuncDecl
}

// returned are the results of the package's functions and methods of the name.
func returned(files []*ast.File, name string) (results []result) {
	for _, f := range files {
		for _, d := range f.Decls {
			function, ok := d.(*ast.FuncDecl)
			if !ok || function.Body == nil || function.Name.Name != name {
				continue
			}
			ast.Inspect(function.Body, func(n ast.Node) bool {
				if r, ok := n.(*ast.ReturnStmt); ok && len(r.Results) > 0 {
					results = append(results, result{r.Results[0], function})
				}
				return true
			})
		}
	}
	return results
}
