package vmmtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/vmm"
)

// residue is what a machine could leave in this process: descriptors and
// goroutines.
type residue struct {
	fds        []string
	goroutines int
}

// look takes stock before a machine is started.
func look(t *testing.T) residue {
	t.Helper()
	runtime.GC() // a file that was closed by no one is closed by its finalizer
	return residue{descriptors(t), runtime.NumGoroutine()}
}

// same fails the test where something is left of a machine that has ended. Its
// console log may stay.
func (r residue) same(t *testing.T, c vmm.Config) {
	t.Helper()
	r.sameProcess(t, c)
	for _, name := range entries(t, c.Dir) {
		if !strings.HasPrefix(name, "console.log") {
			t.Errorf("left behind: %s", name)
		}
	}
}

// sameFiles is same for a machine that never started: nothing may stay.
func (r residue) sameFiles(t *testing.T, c vmm.Config) {
	t.Helper()
	r.sameProcess(t, c)
	for _, name := range entries(t, c.Dir) {
		t.Errorf("left behind: %s", name)
	}
}

func (r residue) sameProcess(t *testing.T, c vmm.Config) {
	t.Helper()
	for _, p := range processes(c.Name) {
		t.Errorf("left behind: process %s", p)
	}
	// A goroutine ends a little after the last thing it does.
	wait(t, func() error {
		if fds := descriptors(t); len(fds) > len(r.fds) {
			return fmt.Errorf("left behind: descriptors\n%s\nwhere there were\n%s", strings.Join(fds, "\n"), strings.Join(r.fds, "\n"))
		}
		if n := runtime.NumGoroutine(); n > r.goroutines {
			all := make([]byte, 1<<20)
			return fmt.Errorf("left behind: %d goroutines\n%s", n-r.goroutines, all[:runtime.Stack(all, true)])
		}
		return nil
	})
}

// wait looks until ok finds no fault, for a few seconds.
func wait(t *testing.T, ok func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(5 * time.Second); ; <-tick.C {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Error(err)
			return
		}
	}
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// descriptors lists what this process has open, but for what the runtime opens
// once for itself.
func descriptors(t *testing.T) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, l := range links {
		target, err := os.Readlink(l)
		if err == nil && !strings.Contains(target, "anon_inode:[event") { // epoll, eventfd
			list = append(list, filepath.Base(l)+" "+target)
		}
	}
	sort.Strings(list)
	return list
}

// processes lists the processes with word in their arguments.
func processes(word string) []string {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var list []string
	for _, f := range files {
		args, err := os.ReadFile(f)
		if err == nil && bytes.Contains(args, []byte(word)) {
			list = append(list, filepath.Base(filepath.Dir(f))+": "+strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return list
}
