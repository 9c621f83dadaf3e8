package offsets

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// A Confirmed is what makes PostgreSQL forget WAL. Others cannot fill one in, and
// in this package exactly one function does, from what the tracker has counted.
func TestConfirmedHasOneMaker(t *testing.T) {
	typ := reflect.TypeFor[Confirmed]()
	for i := range typ.NumField() {
		if f := typ.Field(i); f.IsExported() {
			t.Errorf("field %s of Confirmed is exported: any package could set it", f.Name)
		}
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var makers []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if c, ok := n.(*ast.CompositeLit); ok {
					if id, ok := c.Type.(*ast.Ident); ok && id.Name == "Confirmed" {
						makers = append(makers, name+": "+f.Name.Name)
					}
				}
				return true
			})
		}
	}
	// A rewind gives back later what the tracker gave.
	if want := []string{"rewind.go: due", "tracker.go: Confirmed"}; !slices.Equal(makers, want) {
		t.Errorf("Confirmed is made in %q, want %q alone", makers, want)
	}
}
