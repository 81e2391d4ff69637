package netlog

import (
	"errors"
	"os"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/seal"
)

// Report is what Verify found.
type Report = api.NetworkReport

// maxProblems are listed of a record.
const maxProblems = 100

// Verify holds a record against its chain and its head. It may be written
// meanwhile. That there is none is class NotFound; what is wrong with it is in the
// report, not in the error.
func Verify(dir string, key seal.Key) (Report, error) {
	for {
		r, err := verify(dir, key)
		switch {
		case errors.Is(err, errRotated):
			continue
		case errors.Is(err, errNone):
			return Report{}, api.Errorf(api.NotFound, "verify network record: there is none yet")
		case err != nil:
			return Report{}, api.Errorf(api.Unavailable, "verify network record: %w", err)
		}
		return r, nil
	}
}

var (
	errNone    = errors.New("there is no record")
	errRotated = errors.New("a file was removed meanwhile")
)

func verify(dir string, key seal.Key) (Report, error) {
	h, headErr := readHead(dir, key)
	open, err := openAll(dir)
	defer func() {
		for _, f := range open {
			f.Close()
		}
	}()
	if err != nil {
		return Report{}, err
	}
	if len(open) == 0 && errors.Is(headErr, os.ErrNotExist) {
		return Report{}, errNone
	}
	if now, err := readHead(dir, key); headErr == nil && err == nil && now.First != h.First {
		return Report{}, errRotated
	}
	v := &verifier{head: h, headOK: headErr == nil, late: map[uint64]bool{}}
	v.begin(headErr)
	for _, f := range open {
		if err := v.file(f); err != nil {
			return Report{}, err
		}
	}
	// Read again: what was read of the files may be newer than the first.
	end, err := readHead(dir, key)
	v.end(end, err == nil)
	return v.report, nil
}

// openAll opens the files of lines before any is read: what is open stays.
func openAll(dir string) (open []*os.File, err error) {
	list, err := files(dir)
	for _, n := range list {
		f, err := os.Open(file(dir, n))
		if errors.Is(err, os.ErrNotExist) {
			return open, errRotated
		}
		if err != nil {
			return open, err
		}
		open = append(open, f)
	}
	return open, err
}
