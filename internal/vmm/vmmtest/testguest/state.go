package main

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const pageSize = 4096

// mark is how a page begins that holds a word.
const mark = "smolvm mark "

var (
	count int
	page  = newPage() // of !mark
	room  = newPage() // between a disk and us
)

// newPage returns a page that begins where a page of the processor does.
func newPage() []byte {
	p, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	return p
}

// setWord puts a word into a page.
func setWord(page []byte, w string) {
	clear(page)
	copy(page, mark+w+"\n")
}

// word returns the word in a page, empty where there is none.
func word(page []byte) string {
	w, _, ok := bytes.Cut(bytes.TrimPrefix(page, []byte(mark)), []byte("\n"))
	if !ok || !bytes.HasPrefix(page, []byte(mark)) {
		return ""
	}
	return string(w)
}

// block writes a word into a block of a disk or reads it, past all caches.
func block(write bool, args []string) string {
	if len(args) < 2 || write && len(args) < 3 {
		return "too few arguments"
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return err.Error()
	}
	mode := os.O_RDONLY
	if write {
		mode = os.O_RDWR
	}
	f, err := os.OpenFile("/dev/"+args[0], mode|unix.O_DIRECT|unix.O_SYNC, 0)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if !write {
		if _, err := f.ReadAt(room, n*pageSize); err != nil {
			return err.Error()
		}
		if w := word(room); w != "" {
			return w
		}
		return "-"
	}
	setWord(room, args[2])
	if _, err := f.WriteAt(room, n*pageSize); err != nil {
		return err.Error()
	}
	return "written"
}
