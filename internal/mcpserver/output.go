package mcpserver

import (
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/plain"
)

// What of a command's output reaches a model, and what is kept to be read in pages.
const (
	outputLimit = 16 << 10 // bytes shown of stdout and stderr together
	headShare   = 4        // a quarter of what is shown is the beginning, the rest the end
	keptStream  = 1 << 20  // bytes kept of each stream
	keptSession = 8 << 20  // bytes kept for one session
	keptOutputs = 64       // outputs kept for one session
)

// The streams of an output.
const (
	streamOut = "stdout"
	streamErr = "stderr"
)

// capture is a writer that keeps the beginning of a stream to be read in pages, and
// its end to be shown. It is safe for one writer and many readers.
type capture struct {
	mu    sync.Mutex
	kept  []byte // the first keptStream bytes
	tail  []byte // the last outputLimit bytes, and up to as many before
	total int64
}

func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total += int64(len(p))
	c.kept = append(c.kept, p[:min(len(p), keptStream-len(c.kept))]...)
	c.tail = append(c.tail, p[max(0, len(p)-outputLimit):]...)
	if over := len(c.tail) - outputLimit; over > outputLimit {
		c.tail = append(c.tail[:0], c.tail[over:]...)
	}
	return len(p), nil
}

func (c *capture) size() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

// show returns at most limit bytes of the stream: all of it, or its beginning and
// its end with a line between them that says how to read what is left out. Whatever
// is no UTF-8 becomes U+FFFD.
func (c *capture) show(limit int, id, stream string) (shown string, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total <= int64(limit) {
		return valid(c.kept), false
	}
	head := c.kept[:plain.Whole(c.kept[:limit/headShare])]
	tail := c.tail[max(0, len(c.tail)-(limit-limit/headShare)):]
	for len(tail) > 0 && !utf8.RuneStart(tail[0]) {
		tail = tail[1:]
	}
	left := c.total - int64(len(head)+len(tail))
	return fmt.Sprintf("%s\n[... %d bytes left out; read them with read_output {\"output_id\": %q, \"stream\": %q, \"offset\": %d} ...]\n%s",
		valid(head), left, id, stream, len(head), valid(tail)), true
}

// valid is b as text. Bytes that are none become one U+FFFD for each run of them, so
// that a model is not flooded with those.
func valid(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }

// share divides what is shown between the streams: who needs less leaves the rest
// to the other.
func share(out, errs int64) (int, int) {
	const half = outputLimit / 2
	switch {
	case out <= half:
		return half, outputLimit - int(out)
	case errs <= half:
		return outputLimit - int(errs), half
	}
	return half, half
}

// outputs are what a session keeps to be read in pages, bounded in number and bytes:
// the oldest goes first.
type outputs struct {
	mu   sync.Mutex
	list []output
	n    int // given out so far
}

type output struct {
	id          string
	stdout, err *capture
}

// next gives the id of an output that may be kept.
func (o *outputs) next() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n++
	return fmt.Sprintf("o%d", o.n)
}

func (o *outputs) keep(id string, stdout, errs *capture) {
	// What is kept does not change any more, and only kept is read again.
	stdout.tail, errs.tail = nil, nil
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, output{id, stdout, errs})
	bytes := 0
	for i := len(o.list) - 1; i >= 0; i-- {
		bytes += len(o.list[i].stdout.kept) + len(o.list[i].err.kept)
		if bytes > keptSession || len(o.list)-i > keptOutputs {
			o.list = append([]output(nil), o.list[i+1:]...)
			return
		}
	}
}

func (o *outputs) get(id string) (output, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, out := range o.list {
		if out.id == id {
			return out, nil
		}
	}
	return output{}, api.Errorf(api.NotFound, "read output %q: it is not kept (any more)", id).
		WithRecovery("Run the command again with its output in a file, and read that in parts with read_file.")
}

func (o *outputs) clear() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = nil
}

// page cuts a part out of kept bytes: at most limit, in whole characters. next is
// where the following part begins; 0: there is none.
func page(b []byte, offset int64, limit int) (part []byte, next int64) {
	if offset >= int64(len(b)) {
		return nil, 0
	}
	part = b[offset:min(int64(len(b)), offset+int64(limit))]
	if offset+int64(len(part)) == int64(len(b)) {
		return part, 0
	}
	if n := plain.Whole(part); n > 0 {
		part = part[:n]
	}
	return part, offset + int64(len(part))
}
