// Command testguest is the init of the guest that package vmmtest boots: the
// least that can answer on the channel.
//
// It loads the modules that /modules/load names, opens the port named
// vmm.ChannelName and answers line by line. A line that is none of the commands
// below comes back as it is.
//
//	!disks      one line: name:bytes:ro|rw of each virtio disk, separated by spaces
//	!cpus       the number of CPUs that are online
//	!clock      nanoseconds of its monotonic clock
//	!count      1, 2, 3 and so on with each call
//	!mark WORD  makes a page of memory begin with "smolvm mark ", the word, a line feed
//	!marked     the word in that page
//	!write DISK BLOCK WORD
//	            writes a word into a block of 4096 bytes, answers "written"
//	!read DISK BLOCK
//	            the word in that block, - where there is none
//	!send HEX   sends an Ethernet frame, answers "sent"
//	!receive    the next frame of type 88b5 that came
//	!flood N    writes N KiB to the console, then answers "flooded"
//	!poweroff   powers off
//	!reboot     resets the machine
//	!panic      makes the kernel panic
//	!hang       stops answering for good
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/vmm"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("testguest:", err)
	}
	// The end of PID 1 panics the kernel, which ends the machine.
}

func run() error {
	for _, m := range []struct{ kind, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	port, err := findPort()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(port, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	fmt.Println("testguest: ready")
	return serve(f)
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
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// findPort waits for the port, which appears some time after its driver was loaded.
func findPort() (string, error) {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return "", err
		}
		for _, n := range names {
			b, err := os.ReadFile(n)
			if err == nil && strings.TrimSpace(string(b)) == vmm.ChannelName {
				return filepath.Join("/dev", filepath.Base(filepath.Dir(n))), nil
			}
		}
	}
	return "", fmt.Errorf("no port is named %s", vmm.ChannelName)
}

// serve answers for ever. While the host end is closed reads return nothing and
// poll cannot wait for it either, so it looks again in short steps.
func serve(f *os.File) error {
	for {
		r := bufio.NewReader(f)
		for {
			line, err := r.ReadString('\n')
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
			if _, err := io.WriteString(f, answer(strings.TrimSuffix(line, "\n"))+"\n"); err != nil {
				return err
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func answer(line string) string {
	cmd, arg, _ := strings.Cut(line, " ")
	switch cmd {
	case "!disks":
		return disks()
	case "!cpus":
		b, err := os.ReadFile("/sys/devices/system/cpu/online")
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(b))
	case "!clock":
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
			return err.Error()
		}
		return strconv.FormatInt(now.Nano(), 10)
	case "!count":
		count++
		return strconv.Itoa(count)
	case "!mark":
		setWord(page, arg)
	case "!marked":
		return word(page)
	case "!write", "!read":
		return block(cmd == "!write", strings.Fields(arg))
	case "!send":
		return card.send(arg)
	case "!receive":
		return card.receive()
	case "!flood":
		return flood(arg)
	case "!poweroff":
		return reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case "!reboot":
		return reboot(unix.LINUX_REBOOT_CMD_RESTART)
	case "!panic":
		if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
			return err.Error()
		}
	case "!hang":
		select {}
	}
	return line
}

func reboot(cmd int) string {
	if err := unix.Reboot(cmd); err != nil {
		return err.Error()
	}
	select {} // the machine is going down; to return would panic the kernel first
}

func disks() string {
	names, err := filepath.Glob("/sys/block/vd*")
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, n := range names {
		size, _ := os.ReadFile(filepath.Join(n, "size"))
		sectors, _ := strconv.ParseInt(strings.TrimSpace(string(size)), 10, 64)
		mode := "rw"
		if ro, _ := os.ReadFile(filepath.Join(n, "ro")); strings.TrimSpace(string(ro)) == "1" {
			mode = "ro"
		}
		out = append(out, fmt.Sprintf("%s:%d:%s", filepath.Base(n), sectors*512, mode))
	}
	return strings.Join(out, " ")
}

func flood(kib string) string {
	n, err := strconv.Atoi(kib)
	if err != nil {
		return err.Error()
	}
	line := strings.Repeat("flood ", 170) + "end\n" // 1 KiB
	for range n {
		if _, err := os.Stdout.WriteString(line); err != nil {
			return err.Error()
		}
	}
	return "flooded"
}
