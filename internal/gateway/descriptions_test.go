package gateway_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/gateway"
)

var update = flag.Bool("update", false, "write the goldens")

// golden compares with a file, or writes it.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(want, got) {
		t.Errorf("%s is not what the code says (%v): run go test ./internal/gateway -run 'Descriptions|OpenAPI' -update twice", path, err)
	}
}

// TestDescriptions keeps descriptions.json what the comments say of the types.
func TestDescriptions(t *testing.T) {
	d := describer{words: map[string]string{}, structs: map[string]*ast.StructType{}, out: map[string]string{}}
	for _, dir := range []string{"../../api", "."} {
		d.read(t, dir)
	}
	for name := range d.structs {
		d.fields(name, name)
	}
	if len(d.out) < 100 {
		t.Fatalf("%d descriptions", len(d.out))
	}
	b, err := json.MarshalIndent(d.out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "descriptions.json", append(b, '\n'))
}

// TestOpenAPI keeps docs/api/openapi.json what is served.
func TestOpenAPI(t *testing.T) {
	d := open(t, gateway.Options{})
	var doc json.RawMessage
	d.call(200, "GET", "/openapi.json", nil, &doc)
	var b bytes.Buffer
	if err := json.Indent(&b, doc, "", "  "); err != nil {
		t.Fatal(err)
	}
	b.WriteByte('\n')
	golden(t, "../../docs/api/openapi.json", b.Bytes())
}

// describer collects what comments say of exported structs and their fields, by the
// names that JSON has for them: "Type" and "Type.field".
type describer struct {
	words   map[string]string // of constants, their values
	structs map[string]*ast.StructType
	out     map[string]string
}

func (d *describer) read(t *testing.T, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			if g, ok := decl.(*ast.GenDecl); ok {
				d.declaration(g)
			}
		}
	}
}

func (d *describer) declaration(g *ast.GenDecl) {
	for _, spec := range g.Specs {
		switch s := spec.(type) {
		case *ast.ValueSpec:
			for i, v := range s.Values {
				if lit, ok := v.(*ast.BasicLit); ok && g.Tok == token.CONST && s.Names[i].IsExported() {
					d.words[s.Names[i].Name] = lit.Value
				}
			}
		case *ast.TypeSpec:
			st, ok := s.Type.(*ast.StructType)
			if !ok || !s.Name.IsExported() {
				continue
			}
			d.structs[s.Name.Name] = st
			doc := g.Doc
			if s.Doc != nil {
				doc = s.Doc
			}
			d.out[s.Name.Name] = sentence(doc.Text())
		}
	}
}

// fields describes the fields of a struct, those of embedded ones as its own.
func (d *describer) fields(of, name string) {
	st := d.structs[name]
	if st == nil {
		return
	}
	names := map[string]string{}
	for _, f := range st.Fields.List {
		for _, n := range f.Names {
			names[n.Name] = jsonName(f, n.Name)
		}
	}
	for _, f := range st.Fields.List {
		if len(f.Names) == 0 {
			d.fields(of, embedded(f.Type))
			continue
		}
		text := sentence(f.Doc.Text() + "\n" + f.Comment.Text())
		for _, n := range f.Names {
			if key := names[n.Name]; key != "" && text != "" {
				d.out[of+"."+key] = d.spell(text, names)
			}
		}
	}
}

var identifierRE = regexp.MustCompile(`\b[A-Z][A-Za-z0-9]*\b`)

// spell says with the words of JSON what a comment says with those of Go.
func (d *describer) spell(text string, names map[string]string) string {
	return identifierRE.ReplaceAllStringFunc(text, func(word string) string {
		if v, ok := d.words[word]; ok {
			return v
		}
		if n := names[word]; n != "" {
			return n
		}
		return word
	})
}

func sentence(text string) string { return strings.Join(strings.Fields(text), " ") }

func embedded(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.StarExpr:
		return embedded(e.X)
	}
	return ""
}

// jsonName is the name of a field in JSON; empty: it has none.
func jsonName(f *ast.Field, name string) string {
	if !token.IsExported(name) || f.Tag == nil {
		return ""
	}
	tag := reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json")
	n, _, _ := strings.Cut(tag, ",")
	return strings.TrimPrefix(n, "-")
}
