package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// module is the path of this module.
const module = "github.com/smolvm/smolvm"

// pkg is a package as go list describes it.
type pkg struct {
	ImportPath  string
	Name        string
	Dir         string
	Standard    bool
	GoFiles     []string
	TestGoFiles []string
	XTestGo     []string `json:"XTestGoFiles"`
	Imports     []string // direct, without those of tests
	Deps        []string // all, without those of tests
}

// rel is the package's path in the module; "." for its root.
func (p pkg) rel() string {
	return relative(p.ImportPath)
}

func relative(path string) string {
	if path == module {
		return "."
	}
	return strings.TrimPrefix(path, module+"/")
}

// below reports whether path is dir or below it; a dir that ends in "/..." is
// matched with all below it, any other alone.
func below(path, dir string) bool {
	if d, ok := strings.CutSuffix(dir, "/..."); ok {
		return path == d || strings.HasPrefix(path, d+"/")
	}
	return path == dir
}

// packages lists the module's packages and everything they need.
var packages = sync.OnceValues(func() ([]pkg, error) {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Name,Dir,Standard,GoFiles,TestGoFiles,XTestGoFiles,Imports,Deps", "./...")
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.New(stderr.String())
	}
	var list []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
})

func all(t *testing.T) []pkg {
	t.Helper()
	list, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// ours lists the module's own packages.
func ours(t *testing.T) []pkg {
	t.Helper()
	var list []pkg
	for _, p := range all(t) {
		if below(p.ImportPath, module+"/...") {
			list = append(list, p)
		}
	}
	if len(list) < 10 {
		t.Fatalf("only %d packages of %s were found", len(list), module)
	}
	return list
}

// source is one parsed file.
type source struct {
	path string // in the module
	fset *token.FileSet
	file *ast.File
}

// sources parses the files of a package, with those of its tests where asked.
func (p pkg) sources(t *testing.T, tests bool) []source {
	t.Helper()
	names := p.GoFiles
	if tests {
		names = append(append(append([]string{}, names...), p.TestGoFiles...), p.XTestGo...)
	}
	var list []source
	for _, name := range names {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, source{filepath.Join(p.rel(), name), fset, f})
	}
	return list
}
