package agent

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"golang.org/x/sys/unix"
)

// Bounds of a look for a socket's owner. The guest chooses how many sockets and
// processes it has.
const (
	maxSocketTable = 4 << 20 // bytes of one of the kernel's tables: some 25,000 sockets
	maxOwnerFiles  = 32 << 10
	maxOwnerArgs   = 32
	maxOwnerArg    = 512
)

// socketOwner serves OpOwner.
func (a *Agent) socketOwner(s stream, req []byte) error {
	var o guest.Owner
	if err := unmarshal(req, &o); err != nil {
		return err
	}
	if o.Proto != "tcp" && o.Proto != "udp" {
		return api.Errorf(api.Invalid, "find the owner of a socket: %.80q is neither tcp nor udp", o.Proto)
	}
	inodes := socketInodes(o)
	if len(inodes) == 0 {
		return api.Errorf(api.NotFound, "find the owner of %s port %d: there is no such socket", o.Proto, o.Port)
	}
	pid := holderOf(inodes)
	if pid == 0 {
		return api.Errorf(api.NotFound, "find the owner of %s port %d: no process has it", o.Proto, o.Port)
	}
	return s.reply(&guest.Owned{PID: pid, Argv: shortArgv(pid)})
}

// socketInodes finds the sockets of the agent's own network namespace that fit, as
// links in /proc/PID/fd name them.
func socketInodes(o guest.Owner) []string {
	var found []string
	for _, table := range []string{o.Proto, o.Proto + "6"} {
		f, err := os.Open("/proc/net/" + table)
		if err != nil {
			continue // no IPv6
		}
		lines := bufio.NewScanner(io.LimitReader(f, maxSocketTable))
		for lines.Scan() {
			if inode, ok := fitting(lines.Text(), o); ok {
				found = append(found, "socket:["+inode+"]")
			}
		}
		f.Close()
	}
	return found
}

// fitting reads a line of /proc/net/tcp and its kin (proc_pid_net(5)): number,
// local and remote ADDRESS:PORT in hex, state, queues, timers, retransmissions, user,
// timeouts, inode.
func fitting(line string, o guest.Owner) (inode string, ok bool) {
	fields := strings.Fields(line)
	const tcpListen = "0A"
	if len(fields) < 10 || fields[3] == tcpListen || fields[9] == "0" || hexPort(fields[1]) != o.Port {
		return "", false
	}
	remote := hexPort(fields[2])
	unconnected := o.Proto == "udp" && remote == 0
	return fields[9], unconnected || remote == o.RemotePort
}

// hexPort returns the port at the end of an address; -1: there is none.
func hexPort(s string) int {
	_, text, _ := strings.Cut(s, ":")
	n, err := strconv.ParseUint(text, 16, 16)
	if err != nil {
		return -1
	}
	return int(n)
}

// holderOf returns the first process that has one of the sockets, or 0. The
// youngest are looked at first: most connections are made by them.
func holderOf(sockets []string) int {
	left := maxOwnerFiles
	for _, pid := range slices.Backward(processes()) {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		f, err := os.Open(dir)
		if err != nil {
			continue // ended, or a thread of the kernel
		}
		names, _ := f.Readdirnames(left + 1)
		f.Close()
		if left -= len(names); left < 0 {
			return 0
		}
		for _, name := range names {
			if to, err := os.Readlink(dir + "/" + name); err == nil && slices.Contains(sockets, to) {
				return pid
			}
		}
	}
	return 0
}

func processes() []int {
	f, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// shortArgv returns a process's command line, cut. A process can write what it
// likes there.
func shortArgv(pid int) []string {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/cmdline", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	b := make([]byte, maxOwnerArgs*maxOwnerArg)
	n, err := unix.Read(fd, b)
	if err != nil || n <= 0 {
		return nil
	}
	args := strings.Split(strings.TrimSuffix(string(b[:n]), "\x00"), "\x00")
	args = args[:min(len(args), maxOwnerArgs)]
	for i, a := range args {
		args[i] = a[:min(len(a), maxOwnerArg)]
	}
	return args
}
