package agent

import (
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"golang.org/x/sys/unix"
)

// setup serves OpSetup. On a resumed guest it is what stands between the restored
// memory and the first instruction of the guest's processes, and the first thing
// that an emulated CPU has to translate: it makes few system calls and starts no
// process unless it must.
func (a *Agent) setup(s stream, req []byte) error {
	r := &renewal{a: a, last: time.Now()}
	defer a.endHooks()
	if err := unmarshal(req, &r.s); err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return err
	}
	if r.s.Resumed && !a.freezer.frozen() {
		a.freezer.freeze(s.Session())
		r.lap("freeze")
	}
	if err := r.clockAndRandom(); err != nil {
		return err
	}
	r.identity()
	r.try("set the network card up", r.a.net.become(r.a, r.s.Network))
	r.lap("network")
	if err := r.growDisk(); err != nil {
		return err
	}
	if r.s.Resumed && a.freezer.connected() {
		r.try("reset connections", resetConnections())
		r.lap("tcp")
	}
	if r.s.Resumed || r.s.Copy {
		r.runHooks()
	}
	if r.s.Resumed {
		a.front.keep(s.Session())
		a.freezer.thaw()
		r.lap("thaw")
	}
	reply, err := r.ready()
	if err != nil {
		return err
	}
	return s.reply(&reply)
}

// renewal is one Setup under way.
type renewal struct {
	a     *Agent
	s     guest.Setup
	last  time.Time
	reply guest.Ready
}

// maxFailed bounds what is reported of a part that could not be done, in bytes.
const maxFailed = 400

// try notes a part that could not be done. The guest's own files are its affair:
// what it made of them must not keep it from running.
func (r *renewal) try(act string, err error) {
	if err == nil {
		return
	}
	text := act + ": " + err.Error()
	r.reply.Failed = append(r.reply.Failed, text[:min(len(text), maxFailed)])
}

// lap notes what the part that ends here took.
func (r *renewal) lap(name string) {
	now := time.Now()
	r.reply.StepsUS = append(r.reply.StepsUS, name+"="+strconv.FormatInt(now.Sub(r.last).Microseconds(), 10))
	r.last = now
}

// maxHostname is the kernel's bound, in bytes.
const maxHostname = 64

func (r *renewal) check() error {
	name, id := r.s.Hostname, r.s.MachineID
	if len(name) > maxHostname || strings.ContainsAny(name, "/ \t\n\x00") {
		return api.Errorf(api.Invalid, "set host name %q: not a host name", name)
	}
	if id != "" && (len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "") {
		return api.Errorf(api.Invalid, "set machine id %q: it has not 32 hex digits", id)
	}
	return nil
}

// setClock sets the clock of the day; zero leaves it.
func setClock(ns int64) error {
	if ns <= 0 {
		return nil
	}
	ts := unix.NsecToTimespec(ns)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return api.Errorf(api.Internal, "set the guest's clock: %w", err)
	}
	return nil
}

// clockAndRandom is what no guest may run on without.
func (r *renewal) clockAndRandom() error {
	if err := setClock(r.s.TimeNS); err != nil {
		return err
	}
	if len(r.s.Seed) > 0 {
		if err := r.a.stir(r.s.Seed); err != nil {
			return api.Errorf(api.Internal, "stir the guest's random pool: %w", err)
		}
	}
	r.lap("clock+random")
	return nil
}

// The calls of random(4), _IOW('R', 3, int[2]) and _IO('R', 7).
const (
	rndAddEntropy = 0x40085203
	rndReseed     = 0x5207
	maxSeed       = 512 // bytes that one call takes
)

// randomDevice is /dev/random, which stays open for the resumes to come.
type randomDevice struct {
	mu   sync.Mutex
	open bool
	fd   int
}

func (d *randomDevice) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open {
		unix.Close(d.fd)
		d.open = false
	}
}

// stir adds a secret of the host to the random pool and credits it: a guest
// without a history would hand out the same numbers as its clones.
func (a *Agent) stir(seed []byte) error {
	a.random.mu.Lock()
	defer a.random.mu.Unlock()
	if !a.random.open {
		fd, err := unix.Open("/dev/random", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		a.random.fd, a.random.open = fd, true
	}
	fd := a.random.fd
	var e struct {
		bits, size int32
		data       [maxSeed]byte
	}
	n := copy(e.data[:], seed)
	e.bits, e.size = int32(8*n), int32(n)
	if err := ioctl(fd, rndAddEntropy, uintptr(unsafe.Pointer(&e))); err != nil {
		return err
	}
	return ioctl(fd, rndReseed, 0)
}

func (r *renewal) growDisk() error {
	if !r.s.GrowDisk || r.a.o.GrowDisk == nil {
		return nil
	}
	if err := r.a.o.GrowDisk(); err != nil {
		return api.Errorf(classOf(err), "grow the guest's file system: %w", err)
	}
	return nil
}

// ready describes the guest.
func (r *renewal) ready() (guest.Ready, error) {
	info, err := r.a.info()
	if r.s.Resumed {
		info.BootMS = nil
	}
	r.reply.Info = info
	return r.reply, err
}
