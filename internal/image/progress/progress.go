// Package progress is how long work on images tells how far it is.
//
//	report := progress.Func(func(p progress.Progress) { fmt.Println(p.Step, p.Done, p.Total) })
//	r := report.Reader("download", total, body)
package progress

import "io"

// Progress is the state of one step. Steps may run side by side; each has its
// own name and ends with Done equal to Total.
type Progress struct {
	Step  string `json:"step"`           // what is done, such as "download kernel"
	Line  string `json:"line,omitempty"` // output of the tool that does it, where there is one
	Done  int64  `json:"done"`           // bytes, or parts, done so far
	Total int64  `json:"total"`          // of Total; 0 where it is not known
}

// Func is told of progress. It is called from any goroutine, must return soon,
// and may be nil.
type Func func(Progress)

// chunk is how many bytes pass between two reports of a stream: a few reports a
// second at any plausible speed.
const chunk = 1 << 20

// Report calls f where there is one.
func (f Func) Report(p Progress) {
	if f != nil {
		f(p)
	}
}

// Reader returns r with its bytes reported as a step of the given total.
func (f Func) Reader(step string, total int64, r io.Reader) io.Reader {
	if f == nil {
		return r
	}
	f(Progress{Step: step, Total: total})
	return &reader{f: f, r: r, p: Progress{Step: step, Total: total}}
}

type reader struct {
	f    Func
	r    io.Reader
	p    Progress
	told int64
}

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.p.Done += int64(n)
	if r.p.Done-r.told >= chunk || (err != nil && r.p.Done > r.told) {
		r.told = r.p.Done
		r.f(r.p)
	}
	return n, err
}
