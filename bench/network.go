package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/image/initramfs"
	"github.com/smolvm/smolvm/internal/image/kernel"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/store"
)

// stackArg makes this program the sandbox's side of the network, a process of its
// own as a supervisor is.
const stackArg = "network-stack"

// netJobs are what the two networks are compared by.
var netJobs = []struct {
	what, unit string
	amount     float64 // of unit in a round; 0: the time itself, in ms
	job        netJob
}{
	{"guest to host", "MB/s", netBulk / 1e6, netJob{Do: "upload", Bytes: netBulk, Rounds: 15}},
	{"host to guest", "MB/s", netBulk / 1e6, netJob{Do: "download", Bytes: netBulk, Rounds: 15}},
	{"connections, one at a time", "a second", 1, netJob{Do: "short", Rounds: 300}},
	{"connections, 16 at once", "a second", 32, netJob{Do: "connect", Count: 32, Rounds: 25}},
	{"first byte of a new connection", "ms", 0, netJob{Do: "first", Rounds: 300}},
	{"round trip on an open one", "ms", 0, netJob{Do: "turn", Rounds: 600}},
}

// netBulk is the size of a transfer, in bytes.
const netBulk = 24 << 20

// netJob and netResult are bench/netguest's.
type netJob struct {
	Do     string
	Addrs  []string
	Rounds int
	Bytes  int64
	Count  int
}

type netResult struct {
	Times [][]time.Duration
	Error string
}

// networks measures the sandbox's network beside QEMU's own user networking: one
// guest with a card of each, the same server, in turns.
func networks(ctx context.Context, b *suite) error {
	dir, err := os.MkdirTemp("", "bench-network-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	g := &netGuest{dir: dir}
	defer g.close()
	if err := g.boot(ctx, b.floor.Store); err != nil {
		return err
	}
	for _, c := range netJobs {
		ours, qemus, err := g.compare(c.job)
		if err != nil {
			return fmt.Errorf("%s: %w", c.what, err)
		}
		reportNetwork(c.what, c.unit, c.amount, ours, qemus)
	}
	return nil
}

// reportNetwork prints the medians, and their ratio such that more is better.
func reportNetwork(what, unit string, amount float64, ours, qemus sample) {
	figure := func(d time.Duration) float64 {
		if amount == 0 {
			return ms(d)
		}
		return amount / d.Seconds()
	}
	ratio := float64(qemus.at(50)) / float64(ours.at(50))
	fmt.Printf("  %-44s %8.2f to %8.2f %-8s   %.2fx   n %d\n", what, figure(ours.at(50)), figure(qemus.at(50)), unit, ratio, len(ours))
	target(ratio >= 1, "at least QEMU's user networking")
}

// netGuest is the guest, its two networks and the server that both lead to.
type netGuest struct {
	dir     string
	server  net.Listener
	stack   *exec.Cmd
	wire    *os.File // keeps stack alive
	qemu    *exec.Cmd
	control net.Conn
	in      *json.Decoder
	out     *json.Encoder
}

func (g *netGuest) close() {
	if g.control != nil {
		g.control.Close()
	}
	for _, c := range []*exec.Cmd{g.qemu, g.stack} {
		if c != nil {
			_ = c.Process.Signal(os.Interrupt)
			_ = c.Wait()
		}
	}
	if g.server != nil {
		g.server.Close()
	}
}

func (g *netGuest) boot(ctx context.Context, s store.Store) error {
	vmlinux, initrd, err := g.files(ctx, s)
	if err != nil {
		return err
	}
	if g.server, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	go serveGuests(g.server)
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer control.Close()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "stack"), os.NewFile(uintptr(fds[1]), "card")
	defer ours.Close()
	defer theirs.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	g.stack = exec.Command(self, stackArg, g.server.Addr().String())
	g.stack.ExtraFiles, g.stack.Stderr = []*os.File{ours}, os.Stderr
	if err := g.stack.Start(); err != nil {
		return err
	}
	g.qemu = qemuWithBothCards(vmlinux, initrd, hostAsGuestSees(control.Addr()))
	g.qemu.ExtraFiles = []*os.File{theirs}
	console, err := os.Create(filepath.Join(g.dir, "console"))
	if err != nil {
		return err
	}
	defer console.Close()
	g.qemu.Stdout, g.qemu.Stderr = console, console
	if err := g.qemu.Start(); err != nil {
		return err
	}
	const bootTime = 2 * time.Minute
	_ = control.(*net.TCPListener).SetDeadline(time.Now().Add(bootTime))
	if g.control, err = control.Accept(); err != nil {
		said, _ := os.ReadFile(console.Name())
		return fmt.Errorf("boot: %w\n%s", err, said)
	}
	g.in, g.out = json.NewDecoder(g.control), json.NewEncoder(g.control)
	return nil
}

// files makes what is booted: the user's kernel, and netguest as first process.
func (g *netGuest) files(ctx context.Context, s store.Store) (vmlinux, initrd string, err error) {
	k, err := kernel.Current(s)
	if err != nil {
		return "", "", err
	}
	bin := filepath.Join(g.dir, "netguest")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", bin, "github.com/smolvm/smolvm/bench/netguest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("build the guest: %w\n%s", err, out)
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		return "", "", err
	}
	own, err := store.Open(filepath.Join(g.dir, "store"))
	if err != nil {
		return "", "", err
	}
	initrd, err = initramfs.Build(own, k, program)
	return k.Vmlinux(), initrd, err
}

// hostAsGuestSees is an address of the host's loopback in QEMU's user networking.
func hostAsGuestSees(a net.Addr) string {
	return net.JoinHostPort("10.0.2.2", strconv.Itoa(a.(*net.TCPAddr).Port))
}

// world is any address: the stack connects all to the server.
const world = "203.0.113.7:80"

func qemuWithBothCards(vmlinux, initrd, control string) *exec.Cmd {
	const card = "virtio-net-pci-non-transitional,romfile=,netdev="
	return exec.Command("qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-machine", "q35,usb=off,sata=off,smbus=off,vmport=off,i8042=off,graphics=off",
		"-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max", "-smp", "2", "-m", "512M",
		"-kernel", vmlinux, "-initrd", initrd, "-serial", "stdio",
		"-append", "console=ttyS0 quiet panic=-1 reboot=t rdinit=/init tsc=reliable mitigations=off -- "+control,
		"-netdev", "user,id=user", "-device", card+"user,mac=02:00:00:00:00:01",
		"-netdev", "stream,id=ours,addr.type=fd,addr.str=3", "-device", card+"ours,mac=02:53:4d:4f:4c:02")
}

// compare does a job over both networks, the first rounds of which do not count.
func (g *netGuest) compare(j netJob) (ours, qemus sample, err error) {
	const warm = 2
	j.Addrs = []string{world, hostAsGuestSees(g.server.Addr())}
	j.Rounds += warm
	if err := g.out.Encode(j); err != nil {
		return nil, nil, err
	}
	var r netResult
	if err := g.in.Decode(&r); err != nil {
		return nil, nil, err
	}
	if r.Error != "" || len(r.Times) != len(j.Addrs) {
		return nil, nil, fmt.Errorf("in the guest: %s", r.Error)
	}
	return sorted(r.Times[0][warm:]), sorted(r.Times[1][warm:]), nil
}

// serveGuests is the server: the first byte of a connection says what it does.
func serveGuests(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			serveGuest(c)
		}()
	}
}

func serveGuest(c net.Conn) {
	kind := make([]byte, 1)
	if _, err := io.ReadFull(c, kind); err != nil {
		return
	}
	switch kind[0] {
	case 'e':
		_, _ = io.Copy(c, c)
	case 'f':
		_, _ = io.ReadFull(c, make([]byte, 119))
		_, _ = c.Write(make([]byte, 1000))
	case 'd', 'u':
		size := make([]byte, 20)
		_, _ = io.ReadFull(c, size)
		left, _ := strconv.ParseInt(strings.TrimLeft(string(size), "0"), 10, 64)
		if kind[0] == 'd' {
			_, _ = io.CopyN(c, zeros{}, left)
			return
		}
		_, _ = io.CopyN(io.Discard, c, left)
		_, _ = c.Write(kind)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// runStack is the sandbox's side: all flows go to one server.
func runStack(server string) error {
	if path := os.Getenv("BENCH_NETWORK_PROFILE"); path != "" {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	to, err := netip.ParseAddrPort(server)
	if err != nil {
		return err
	}
	const wire = 3 // the first of ExtraFiles
	f := os.NewFile(wire, "wire")
	conn, err := net.FileConn(f)
	if err != nil {
		return err
	}
	f.Close()
	n, err := netstack.New(conn, netstack.Config{Decider: allTo{to}})
	if err != nil {
		return err
	}
	<-n.Done()
	return n.Close()
}

// allTo is a policy that allows everything, to one address.
type allTo struct{ netip.AddrPort }

func (a allTo) Question(context.Context, netstack.Question) netstack.Decision {
	return netstack.Decision{}
}

func (a allTo) Flow(context.Context, netstack.Flow) netstack.Decision {
	return netstack.Decision{Verdict: netstack.Allow, Addr: a.Addr(), Port: a.Port()}
}

func (a allTo) Address(string, netip.Addr) netstack.Decision { return netstack.Decision{} }
