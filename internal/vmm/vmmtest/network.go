package vmmtest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/vmm"
)

// testMAC is the card's address.
var testMAC = [6]byte{0x02, 0x53, 0x4d, 0x4f, 0x4c, 0x07}

// etherTest is the type of the frames of these tests: one of the two that are set
// aside for experiments (IEEE 802), so that the guest's kernel sends and takes none.
const etherTest = "88b5"

// plug gives a Config a network card and returns the host's end of its wire.
// Start's caller closes the other one.
func plug(t *testing.T, c *vmm.Config) net.Conn {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours := os.NewFile(uintptr(fds[0]), "wire")
	defer ours.Close()
	c.Network = &vmm.Network{MAC: testMAC, Wire: os.NewFile(uintptr(fds[1]), "wire of the machine")}
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// testFrame is a frame from the card to nobody in particular, in hex.
func testFrame(payload string) string {
	return "ffffffffffff" + hex.EncodeToString(testMAC[:]) + etherTest + hex.EncodeToString([]byte(payload))
}

// frames sends a frame each way.
func frames(t *testing.T, h Harness, m vmm.Machine, w net.Conn) {
	k := h.dial(t, m)
	defer k.Close()
	exchange(t, h, k, w)
}

func exchange(t *testing.T, h Harness, k *talk, w net.Conn) {
	t.Helper()
	must(t, w.SetDeadline(time.Now().Add(h.BootTime)))
	out := testFrame("a frame that is long enough to need no padding on its way out ....")
	k.expect("!send "+out, "sent")
	if got := nextFrame(t, w); got != out {
		t.Errorf("the guest sent %s, the wire has %s", out, got)
	}
	// As large as the largest that the sandbox's network will send.
	in, err := hex.DecodeString(testFrame(string(bytes.Repeat([]byte("in"), 65520/2))))
	must(t, err)
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(in))), in...))
	must(t, err)
	k.expect("!receive", hex.EncodeToString(in))
}

// nextFrame reads frames of the wire up to one of ours. A guest's kernel sends some
// of its own when a card comes up.
func nextFrame(t *testing.T, w net.Conn) string {
	t.Helper()
	for {
		var head [4]byte
		if _, err := io.ReadFull(w, head[:]); err != nil {
			t.Fatal(err)
		}
		frame := make([]byte, binary.BigEndian.Uint32(head[:])&0xfffff)
		if _, err := io.ReadFull(w, frame); err != nil {
			t.Fatal(err)
		}
		if text := hex.EncodeToString(frame); text[24:28] == etherTest {
			return text
		}
	}
}

// deadWire has the guest send on a wire that nobody reads, and then on one that is cut.
func deadWire(t *testing.T, h Harness, m vmm.Machine, w net.Conn) {
	k := h.dial(t, m)
	defer k.Close()
	text := testFrame("nobody reads this: " + string(bytes.Repeat([]byte("."), 1400)))
	for range 4 {
		k.expect("!send "+text, "sent")
	}
	must(t, w.Close())
	for range 4 {
		k.expect("!send "+text, "sent")
	}
	k.ask("it runs on")
}

// continuedCard tries the card of a machine that continues one whose wire was cut.
func (h Harness) continuedCard(t *testing.T, s saved) {
	r := look(t)
	c := h.clone(t, s)
	c.Network.Wire.Close()
	w := plug(t, &c)
	m, k := h.awake(t, c)
	exchange(t, h, k, w)
	k.Close()
	m.Kill()
	if _, err := io.Copy(io.Discard, w); err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the wire of a machine that has ended: %v", err)
	}
	w.Close()
	r.same(t, c)
}
