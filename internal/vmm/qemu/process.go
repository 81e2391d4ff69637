package qemu

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// mallocTunables makes the C library ask for huge pages for its heap, and use one
// heap for all threads. A third of the page faults of QEMU's start, which are a
// good part of its time, are for one page after the other of the heap. C libraries
// and hosts without either take no notice.
const mallocTunables = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"

// command makes the command that runs QEMU. It is the one place where QEMU's
// surroundings are decided, and so where a jail goes around it.
func command(binary string, args []string, files []*os.File, stderr io.Writer) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = []string{mallocTunables} // and nothing of ours, which may hold secrets
	cmd.Dir = "/"                      // so that QEMU keeps no directory busy
	cmd.Stdout = stderr
	cmd.Stderr = stderr
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // a Ctrl-C in our terminal is not for QEMU
		Pdeathsig: syscall.SIGKILL,
	}
	// How long Wait waits for the end of stderr after QEMU's end.
	cmd.WaitDelay = time.Second
	return cmd
}

// oomScoreAdj makes the kernel choose a machine before ordinary processes when
// the host runs out of memory. The most is 1000.
const oomScoreAdj = 500

// process is a running QEMU.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has been waited for
	err   error         // of Wait; valid after ended is closed
}

// startProcess starts cmd on a thread of its own, where it also waits for it.
//
// The signal at the parent's death (Pdeathsig) is sent when the thread that
// forked ends, not its process. A thread that is locked to a goroutine is used
// for nothing else and lives until the goroutine returns, here after QEMU's end.
func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	// Hosts that forbid it are no worse off than without it.
	os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.pid()), fmt.Append(nil, oomScoreAdj), 0)
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the process and waits until it is gone.
func (p *process) kill() {
	p.cmd.Process.Kill() // fails only where it has ended
	<-p.ended
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// state says how the process ended, such as "exit status 1".
func (p *process) state() string {
	if p.cmd.ProcessState == nil {
		return p.err.Error()
	}
	return p.cmd.ProcessState.String()
}
