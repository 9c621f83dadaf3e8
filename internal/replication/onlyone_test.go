package replication

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A standby status update makes PostgreSQL forget WAL for ever. Exactly one
// function of the product writes one, so that the rule "only what Kafka has
// acknowledged" has one place to be kept in and to be read.
func TestOnlyOnePlaceConfirms(t *testing.T) {
	root := filepath.Join("..", "..")
	var places []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			// e2e measures against readers that confirm what they like, on
			// slots of their own.
			if name := d.Name(); rel == "e2e" || name == "testdata" || rel != "." && strings.HasPrefix(name, ".") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			place := filepath.ToSlash(rel)
			if f, ok := decl.(*ast.FuncDecl); ok {
				place += ": " + f.Name.Name
			}
			for range statusWrites(decl) {
				places = append(places, place)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"internal/replication/standbystatus.go: send"}; !slices.Equal(places, want) {
		t.Errorf("standby status updates are written in %q, want %q alone", places, want)
	}
}

// statusWrites finds what a status update cannot be written without: its tag, or
// the functions and names that pglogrepl has for it.
func statusWrites(n ast.Node) (found []token.Pos) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CaseClause:
			// What is compared with a letter reads, and does not write.
			for _, statement := range n.Body {
				found = append(found, statusWrites(statement)...)
			}
			return false
		case *ast.BasicLit:
			if n.Kind == token.CHAR && (n.Value == `'r'` || n.Value == `'\x72'`) {
				found = append(found, n.Pos())
			}
		case *ast.Ident:
			if strings.Contains(n.Name, "StandbyStatusUpdate") {
				found = append(found, n.Pos())
			}
		}
		return true
	})
	return found
}

func TestStatusWritesAreSeen(t *testing.T) {
	for source, want := range map[string]int{
		"func() { switch c { case 'r': c = 'n' } }":                                     0,
		"func() { switch c { case 'n': m[0] = 'r' } }":                                  1,
		`pglogrepl.SendStandbyStatusUpdate(ctx, conn, pglogrepl.StandbyStatusUpdate{})`: 2,
		`append(m, 'd', 0, 0, 0, 38, 'r')`:                                              1,
		`byte(pglogrepl.StandbyStatusUpdateByteID)`:                                     1,
		`conn.Write(append(m, 'd', "r"))`:                                               0,
	} {
		expr, err := parser.ParseExpr(source)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(statusWrites(expr)); n != want {
			t.Errorf("%s: %d found, want %d", source, n, want)
		}
	}
}
