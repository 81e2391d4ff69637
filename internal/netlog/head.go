package netlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/internal/seal"
)

const (
	headName = "head"
	suffix   = ".jsonl"

	// maxHead bounds the head's file; it has about 400 bytes.
	maxHead = 4 << 10
)

// first is Prev of the first line there ever was.
var first = strings.Repeat("0", 2*sha256.Size)

// head says where the record begins and ends.
type head struct {
	Seq   uint64 `json:"seq"`   // of the last line; 0: there is none
	Hash  string `json:"hash"`  // of the last line
	First uint64 `json:"first"` // number of the first line that is kept
	Prev  string `json:"prev"`  // hash of the line before that
	// Next is the hash of the line that is being written, or was when its writer was
	// killed; of no line: first. So nobody else can put one there.
	Next string `json:"next"`
}

func hashOf(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

func headPath(dir string) string { return filepath.Join(dir, headName) }

// readHead reads the head, which may be written meanwhile. The error is in
// os.ErrNotExist's tree where there is none.
func readHead(dir string, key seal.Key) (h head, err error) {
	var before []byte
	for {
		b, err := readBounded(headPath(dir), maxHead)
		if err != nil {
			return h, err
		}
		doc, err := key.Open(b)
		if err == nil {
			return h, json.Unmarshal(doc, &h)
		}
		if bytes.Equal(b, before) { // nobody is writing it: it stays as it is
			return h, err
		}
		before = b
	}
}

func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// file is the path of one file of lines.
func file(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%06d%s", n, suffix)) }

// files lists the numbers of the files of lines, in order.
func files(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir) // sorted
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var list []int
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), suffix)
		if n, err := strconv.Atoi(digits); ok && err == nil && n > 0 && file(dir, n) == filepath.Join(dir, e.Name()) {
			list = append(list, n)
		}
	}
	return list, err
}
