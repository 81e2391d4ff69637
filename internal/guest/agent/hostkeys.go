package agent

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	sshDir   = "/etc/ssh"
	keygen   = "/usr/bin/ssh-keygen"
	sshdPID  = "/run/sshd.pid"
	keyStart = "ssh_host_"
	keyEnd   = "_key"
	// keygenTime bounds the making of a key, under emulation.
	keygenTime = 20 * time.Second
)

// renewHostKeys makes the SSH server's keys anew, where the guest has any: a copy
// must not answer with the keys of its brothers. Only keys on elliptic curves are
// made; an RSA key takes many seconds under emulation, so it is only removed.
func (a *Agent) renewHostKeys() error {
	var st unix.Stat_t
	if unix.Stat(a.root+sshDir, &st) != nil {
		return nil // no SSH here, as mostly
	}
	names, err := readNames(a.root + sshDir)
	if err != nil {
		return err
	}
	types := hostKeyTypes(names)
	if len(types) == 0 {
		return nil
	}
	var errs []error
	for _, name := range names {
		if isHostKey(strings.TrimSuffix(name, ".pub")) {
			errs = append(errs, os.Remove(a.root+sshDir+"/"+name))
		}
	}
	for _, t := range types {
		file := a.root + sshDir + "/" + keyStart + t + keyEnd
		errs = append(errs, a.runHelper(keygenTime, []string{a.root + keygen, "-q", "-t", t, "-N", "", "-C", "root@" + readHostname(), "-f", file}))
	}
	a.reloadSSH()
	return errors.Join(errs...)
}

func isHostKey(name string) bool {
	return strings.HasPrefix(name, keyStart) && strings.HasSuffix(name, keyEnd)
}

// hostKeyTypes returns the types of key to make for those that are there.
func hostKeyTypes(names []string) []string {
	if !slices.ContainsFunc(names, isHostKey) {
		return nil
	}
	types := []string{"ed25519"}
	if slices.Contains(names, keyStart+"ecdsa"+keyEnd) {
		types = append(types, "ecdsa")
	}
	return types
}

// reloadSSH has a server that runs read the new keys, once it runs on.
func (a *Agent) reloadSSH() {
	pid, err := strconv.Atoi(readLine(a.root + sshdPID))
	if err != nil || pid <= 1 || readLine("/proc/"+strconv.Itoa(pid)+"/comm") != "sshd" {
		return
	}
	syscall.Kill(pid, syscall.SIGHUP)
}
