package agent

import (
	"syscall"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"golang.org/x/sys/unix"
)

const (
	// maxGrace bounds what a host may ask for: it kills the machine itself before.
	maxGrace = time.Minute
	// killTime is how long killed processes may take to be gone; one that hangs in
	// the kernel does not keep the machine up.
	killTime = 2 * time.Second
	// syncTime bounds the last write of everything to a disk.
	syncTime = 30 * time.Second
)

// shutdown serves OpShutdown. The reply goes out first: afterwards nothing does.
func (a *Agent) shutdown(s stream, req []byte) error {
	var r guest.Shutdown
	if err := unmarshal(req, &r); err != nil {
		return err
	}
	if a.o.PowerOff == nil {
		return api.Errorf(api.Unavailable, "shut down: the agent is not the first process of a guest")
	}
	if a.ending.Swap(true) {
		return api.Errorf(api.Conflict, "shut down: it is under way")
	}
	grace := min(time.Duration(max(r.GraceMS, 0))*time.Millisecond, maxGrace)
	if err := s.reply(&guest.Empty{}); err != nil {
		return err
	}
	s.CloseSend()
	a.freezer.thaw()
	a.end(grace)
	a.o.PowerOff(r.Reboot)
	return nil
}

// end ends all processes and leaves the disk in order.
func (a *Agent) end(grace time.Duration) {
	if grace > 0 {
		// -1 is everyone but process 1, which is the sender.
		syscall.Kill(-1, syscall.SIGTERM)
		syscall.Kill(-1, syscall.SIGCONT) // a stopped process could not end
		a.reaper.awaitNone(grace)
	}
	syscall.Kill(-1, syscall.SIGKILL)
	a.reaper.awaitNone(killTime)
	synced := make(chan struct{})
	go func() {
		defer close(synced)
		for _, f := range a.allFolders() {
			f.sync()
			a.dropFolder(f)
		}
		unix.Sync()
		// With the journal written back the next mount has nothing to replay.
		unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		if a.o.Writable != "" {
			unix.Mount("", a.o.Writable, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}()
	select {
	case <-synced:
	case <-time.After(syncTime):
	}
}
