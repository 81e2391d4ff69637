package world

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// DebPackage is the package in the repository for apt. It holds DebFile with
// DebText.
const (
	DebPackage = "smolvm-world"
	DebFile    = "/usr/share/smolvm-world/hello"
	DebText    = "hello from apt\n"
)

// debs serves a repository with one package.
func (w *World) debs(t testing.TB) http.Handler {
	t.Helper()
	root, repo := filepath.Join(w.dir, "deb"), filepath.Join(w.dir, "apt")
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: World <world@%s>\nDescription: a file\n", DebPackage, Version, Zone)
	write(t, filepath.Join(root, "DEBIAN/control"), control)
	write(t, filepath.Join(root, DebFile), DebText)
	pool := fmt.Sprintf("pool/%s_%s_all.deb", DebPackage, Version)
	write(t, filepath.Join(repo, pool), "") // makes the folder
	run(t, exec.Command("dpkg-deb", "--root-owner-group", "-b", root, filepath.Join(repo, pool)), os.Environ())
	deb, err := os.ReadFile(filepath.Join(repo, pool))
	if err != nil {
		t.Fatal(err)
	}
	packages := fmt.Sprintf("%sFilename: %s\nSize: %d\nSHA256: %x\n\n", control, pool, len(deb), sha256.Sum256(deb))
	list := "main/binary-" + runtime.GOARCH + "/Packages"
	write(t, filepath.Join(repo, "dists/stable", list), packages)
	write(t, filepath.Join(repo, "dists/stable/Release"), fmt.Sprintf(
		"Origin: world\nSuite: stable\nCodename: stable\nDate: %s\nArchitectures: %s\nComponents: main\nSHA256:\n %x %d %s\n",
		time.Now().UTC().Format(time.RFC1123), runtime.GOARCH, sha256.Sum256([]byte(packages)), len(packages), list))
	return http.FileServer(http.Dir(repo))
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
