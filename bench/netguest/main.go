// Netguest is the first process of the guest in which go run ./bench network
// measures: it brings up both cards and does what it is told over a connection to
// the host, one job at a time.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// job is one measurement: the same thing over each of Addrs, in turns, Rounds
// times. The server there does what the first byte of a connection says: see the
// host's side.
type job struct {
	Do     string // download, upload, connect, first, turn
	Addrs  []string
	Rounds int
	Bytes  int64
	Count  int // connections in a round of connect, half of them at once
}

// result has a list of times for each address.
type result struct {
	Times [][]time.Duration
	Error string
}

func main() {
	if err := run(); err != nil {
		fmt.Println("netguest:", err)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// run needs the host's address of the control connection as its argument.
func run() error {
	if err := loadModules(); err != nil {
		return err
	}
	for _, c := range cards() {
		if err := c.up(); err != nil {
			return fmt.Errorf("bring up %s: %w", c.mac, err)
		}
	}
	control, err := net.Dial("tcp", os.Args[1])
	if err != nil {
		return err
	}
	in, out := json.NewDecoder(control), json.NewEncoder(control)
	for {
		var j job
		if err := in.Decode(&j); err != nil {
			return err
		}
		times, err := j.do()
		r := result{Times: times}
		if err != nil {
			r.Error = err.Error()
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

func loadModules() error {
	list, err := os.ReadFile("/modules/load")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		f, err := os.Open("/modules/" + name + ".ko")
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
		f.Close()
	}
	return nil
}

func (j job) do() ([][]time.Duration, error) {
	times := make([][]time.Duration, len(j.Addrs))
	open := make([]net.Conn, len(j.Addrs)) // of turns
	defer func() {
		for _, c := range open {
			if c != nil {
				c.Close()
			}
		}
	}()
	for round := range j.Rounds {
		for k := range j.Addrs {
			at := (k + round) % len(j.Addrs) // each goes first as often
			took, err := j.once(j.Addrs[at], &open[at])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", j.Addrs[at], err)
			}
			times[at] = append(times[at], took)
		}
	}
	return times, nil
}

func (j job) once(addr string, open *net.Conn) (time.Duration, error) {
	switch j.Do {
	case "download", "upload":
		return j.bulk(addr)
	case "connect":
		return j.connects(addr)
	case "first":
		byteAfter, _, err := short(addr)
		return byteAfter, err
	case "short":
		_, whole, err := short(addr)
		return whole, err
	case "turn":
		return turn(addr, open)
	}
	return 0, fmt.Errorf("%q is not a job", j.Do)
}

// dial connects and says what is wanted.
func dial(addr, want string) (net.Conn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(c, want)
	return c, err
}

func (j job) bulk(addr string) (time.Duration, error) {
	c, err := dial(addr, fmt.Sprintf("%c%020d", j.Do[0], j.Bytes))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	step := c.Read
	if j.Do == "upload" {
		step = c.Write
	}
	began := time.Now()
	buf := make([]byte, 256<<10)
	for left := j.Bytes; left > 0; {
		k, err := step(buf[:min(left, int64(len(buf)))])
		if err != nil {
			return 0, err
		}
		left -= int64(k)
	}
	if j.Do == "upload" {
		_, err = c.Read(buf[:1]) // the server has got all
	}
	return time.Since(began), err
}

// connects makes Count short connections, half of them at once.
func (j job) connects(addr string) (time.Duration, error) {
	began := time.Now()
	const each = 2
	errs := make(chan error, j.Count)
	var wg sync.WaitGroup
	for range j.Count / each {
		wg.Go(func() {
			for range each {
				if _, _, err := short(addr); err != nil {
					errs <- err
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return time.Since(began), <-errs
}

// short is one connection with a small request and answer: how long it took until
// the answer's first byte, and until the server had ended it.
func short(addr string) (first, whole time.Duration, err error) {
	began := time.Now()
	c, err := dial(addr, "f"+strings.Repeat("x", 119))
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return 0, 0, err
	}
	first = time.Since(began)
	_, err = io.Copy(io.Discard, c)
	return first, time.Since(began), err
}

// turn is one byte there and back on a connection that is opened at first.
func turn(addr string, open *net.Conn) (time.Duration, error) {
	if *open == nil {
		c, err := dial(addr, "e")
		if err != nil {
			return 0, err
		}
		*open = c
	}
	buf := make([]byte, 1)
	began := time.Now()
	if _, err := (*open).Write(buf); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(*open, buf)
	return time.Since(began), err
}

// card is a network card and what it is to be.
type card struct {
	mac     string
	addr    [4]byte
	bits    int
	mtu     uint32
	gateway [4]byte // of the default route; zero: none
}

// cards are the one of QEMU's own network, as its manual has it, and the
// sandbox's, as netstack has it.
func cards() []card {
	return []card{
		{mac: "02:00:00:00:00:01", addr: [4]byte{10, 0, 2, 15}, bits: 24, mtu: 1500},
		{mac: "02:53:4d:4f:4c:02", addr: [4]byte{198, 19, 77, 2}, bits: 30, mtu: 65520, gateway: [4]byte{198, 19, 77, 1}},
		{addr: [4]byte{127, 0, 0, 1}, bits: 8, mtu: 65536},
	}
}

func (c card) up() error {
	list, err := net.Interfaces()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(list, func(i net.Interface) bool { return i.HardwareAddr.String() == c.mac })
	if at < 0 {
		return nil // measured with one card only
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	set := func(request uint, fill func(*unix.Ifreq) error) {
		ifr, e := unix.NewIfreq(list[at].Name)
		if e == nil {
			e = fill(ifr)
		}
		if e == nil {
			e = unix.IoctlIfreq(fd, request, ifr)
		}
		if err == nil {
			err = e
		}
	}
	mask := net.CIDRMask(c.bits, 32)
	set(unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(c.mtu); return nil })
	set(unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(c.addr[:]) })
	set(unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr(mask) })
	set(unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil })
	if err == nil && c.gateway != [4]byte{} {
		err = defaultRoute(c.gateway)
	}
	return err
}
