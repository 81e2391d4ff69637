package supervisor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/smolvm/smolvm/internal/netstack"
)

// blocks parses a pcapng file into its blocks: type and content. Both lengths of
// each must agree.
func blocks(t *testing.T, b []byte) (kinds []uint32, bodies [][]byte) {
	t.Helper()
	for len(b) > 0 {
		if len(b) < 12 {
			t.Fatalf("%d bytes are no block", len(b))
		}
		kind, size := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
		if size%4 != 0 || int(size) > len(b) || binary.LittleEndian.Uint32(b[size-4:]) != size {
			t.Fatalf("block %d of %d bytes, %d are left", kind, size, len(b))
		}
		kinds, bodies = append(kinds, kind), append(bodies, b[8:size-4])
		b = b[size:]
	}
	return kinds, bodies
}

func TestCaptureCountsWhatItLeavesOut(t *testing.T) {
	q := &frameQueue{more: make(chan struct{}, 1)}
	tap, err := netstack.NewPcapng(q, 0)
	if err != nil {
		t.Fatal(err)
	}
	frame := bytes.Repeat([]byte{7}, 60001)
	const frames = 300 // 18 MB: more than the queue takes
	for range frames {
		tap.Frame(true, frame)
	}
	var out bytes.Buffer
	left := make(chan struct{})
	close(left)
	if err := q.pump(&out, left, nil); err != nil {
		t.Fatal(err)
	}
	q.finish(&out)
	kinds, bodies := blocks(t, out.Bytes())
	last := len(kinds) - 1
	if kinds[0] != 0x0a0d0d0a || kinds[1] != 1 || kinds[2] != 6 || kinds[last] != 5 {
		t.Fatalf("blocks %v", kinds)
	}
	got := last - 2
	dropped := binary.LittleEndian.Uint64(bodies[last][16:])
	if got < 250 || got >= frames || int(dropped) != frames-got {
		t.Errorf("%d frames and %d left out, of %d", got, dropped, frames)
	}
	if !bytes.Contains(bodies[2], frame) {
		t.Error("a frame is not as it was")
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("the client has gone") }

func TestCaptureEndsWithItsClient(t *testing.T) {
	q := &frameQueue{more: make(chan struct{}, 1)}
	q.Write([]byte("block"))
	if err := q.pump(broken{}, nil, nil); err == nil {
		t.Error("it goes on")
	}
	done := make(chan struct{})
	close(done)
	if err := q.pump(&bytes.Buffer{}, nil, done); err != nil {
		t.Error(err)
	}
}
