package egress

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestPure wants what the package comment promises: no input, no output, no
// goroutines, no clock. Of net only what computes; embed is data.
func TestPure(t *testing.T) {
	may := []string{
		"bytes", "cmp", "embed", "encoding/json", "errors", "fmt", "io", "maps", "net/netip", "net/url", "path", "slices", "strconv", "strings", "sync", "time",
		"github.com/smolvm/smolvm/api", "go.yaml.in/yaml/v3", "golang.org/x/net/idna", "golang.org/x/net/publicsuffix",
	}
	files, err := filepath.Glob("*.go")
	more, err2 := filepath.Glob("sniff/*.go")
	if err != nil || err2 != nil || len(files) < 10 || len(more) < 3 {
		t.Fatal(files, more, err, err2)
	}
	fset := token.NewFileSet()
	for _, name := range append(files, more...) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if path, _ := strconv.Unquote(i.Path.Value); !slices.Contains(may, path) {
				t.Errorf("%s imports %s", name, path)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s starts a goroutine", fset.Position(n.Pos()))
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "After", "Sleep"}, n.Sel.Name) {
					t.Errorf("%s looks at the clock", fset.Position(n.Pos()))
				}
			}
			return true
		})
	}
}
