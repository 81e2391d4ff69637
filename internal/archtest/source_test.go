package archtest

import (
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
	"testing"
)

// Sizes that set off the alarm. Half of each is where one should begin to think.
const (
	maxFileLines = 800
	maxFuncLines = 80
)

// larger lists what may be larger, with the reason. Keys are path, or path:func.
var larger = map[string]string{}

func TestSizes(t *testing.T) {
	used := map[string]bool{}
	tooLarge := func(key string, n, limit int) {
		if n <= limit {
			return
		}
		if _, ok := larger[key]; ok {
			used[key] = true
			return
		}
		t.Errorf("%s has %d lines, more than %d: split it, or say why not in archtest", key, n, limit)
	}
	for _, p := range ours(t) {
		for _, s := range p.sources(t, true) {
			tooLarge(s.path, s.fset.File(s.file.Pos()).LineCount(), maxFileLines)
			for _, d := range s.file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok {
					n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
					tooLarge(s.path+":"+f.Name.Name, n, maxFuncLines)
				}
			}
		}
	}
	for key := range larger {
		if !used[key] {
			t.Errorf("%s is listed as larger and is not: take it off the list", key)
		}
	}
}

// TestPackageDocs wants one comment a package, which begins as godoc wants it.
func TestPackageDocs(t *testing.T) {
	for _, p := range ours(t) {
		var docs []string
		for _, s := range p.sources(t, false) {
			if s.file.Doc != nil {
				docs = append(docs, s.file.Doc.Text())
			}
		}
		begin := "Package " + p.Name + " "
		if p.Name == "main" { // the program's name, begun large, or Command
			program := path.Base(p.ImportPath)
			begin = strings.ToUpper(program[:1]) + program[1:] + " "
		}
		switch {
		case len(p.GoFiles) == 0:
		case len(docs) != 1:
			t.Errorf("%s has %d package comments, want one", p.rel(), len(docs))
		case !strings.HasPrefix(docs[0], begin) && !(p.Name == "main" && strings.HasPrefix(docs[0], "Command ")):
			t.Errorf("%s: its package comment does not begin with %q", p.rel(), begin)
		}
	}
}

// TestExportedNamesAreDocumented covers what users of the SDK read.
func TestExportedNamesAreDocumented(t *testing.T) {
	found := 0
	for _, p := range ours(t) {
		if p.rel() != "." && p.rel() != "api" {
			continue
		}
		found++
		for _, s := range p.sources(t, false) {
			for _, d := range s.file.Decls {
				for _, bad := range undocumented(d) {
					t.Errorf("%s: exported %s has no comment", s.fset.Position(d.Pos()), bad)
				}
			}
		}
	}
	if found != 2 {
		t.Errorf("%d packages were looked at, want the SDK and api", found)
	}
}

// undocumented lists the exported names of a declaration without a comment. A
// comment on a group counts for its members.
func undocumented(d ast.Decl) []string {
	var bad []string
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
			bad = append(bad, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
					bad = append(bad, s.Name.Name)
				}
			case *ast.ValueSpec:
				for _, n := range s.Names {
					if n.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
						bad = append(bad, n.Name)
					}
				}
			}
		}
	}
	return bad
}

func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil || len(f.Recv.List) == 0 {
		return true
	}
	name := exprName(f.Recv.List[0].Type)
	return token.IsExported(name)
}

func exprName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return exprName(e.X)
	case *ast.IndexExpr:
		return exprName(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// mayExit lists files outside of a main that may end the program, with the reason.
var mayExit = map[string]string{
	"internal/guest/agent/boot/system.go": "process 1 of a machine that cannot be switched off",
}

// exits are the ways to end the program that skip what is deferred.
var exits = map[string]bool{
	"os.Exit": true, "syscall.Exit": true,
	"log.Fatal": true, "log.Fatalf": true, "log.Fatalln": true,
}

func TestOnlyMainExits(t *testing.T) {
	for _, p := range ours(t) {
		for _, s := range p.sources(t, false) {
			ast.Inspect(s.file, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				x, ok := sel.X.(*ast.Ident)
				if ok && exits[x.Name+"."+sel.Sel.Name] && p.Name != "main" && mayExit[s.path] == "" {
					t.Errorf("%s: %s.%s outside of a main: return a status instead", s.fset.Position(sel.Pos()), x.Name, sel.Sel.Name)
				}
				return true
			})
		}
	}
}

// TestPatternsWait keeps the compiling of regular expressions out of what runs before
// main: each command would pay for all of them, about 1 ms for a dozen.
func TestPatternsWait(t *testing.T) {
	for _, p := range ours(t) {
		for _, s := range p.sources(t, false) {
			for _, d := range s.file.Decls {
				g, ok := d.(*ast.GenDecl)
				if !ok {
					continue
				}
				for _, spec := range g.Specs {
					v, ok := spec.(*ast.ValueSpec)
					if ok && slices.ContainsFunc(v.Values, compiles) {
						t.Errorf("%s: compile it at its first use, by sync.OnceValue", s.fset.Position(v.Pos()))
					}
				}
			}
		}
	}
}

func compiles(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	return ok && exprName(sel.X) == "regexp"
}
