package setup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Free space in bytes: below the first no sandbox can be worked in, below the
// second the default image and a few sandboxes do not fit.
const (
	minSpace  = 256 << 20
	goodSpace = 4 << 30
)

func (h Host) checkSpace() Check {
	const name = "disk"
	var st unix.Statfs_t
	if err := unix.Statfs(h.Store.Root(), &st); err != nil {
		return failed(name, err, "Set SMOLVM_HOME to a directory you can write to.")
	}
	free := int64(st.Bavail) * st.Bsize
	c := Check{Name: name, Status: OK, Detail: fmt.Sprintf("%.1f GiB free in %s", float64(free)/(1<<30), h.Store.Root())}
	switch {
	case free < minSpace:
		c.Status = Fail
	case free < goodSpace:
		c.Status = Warn
	}
	if c.Status != OK {
		c.Fix = "Free space, run: smolvm gc, or set SMOLVM_HOME to a larger file system."
	}
	return c
}

// namespaceTime bounds a check that starts a process: it takes milliseconds.
const namespaceTime = 5 * time.Second

// checkUserNamespaces makes one: the several settings that forbid it differ from
// distribution to distribution.
func checkUserNamespaces(ctx context.Context) Check {
	ctx, cancel := context.WithTimeout(ctx, namespaceTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		return Check{
			Name: "user namespaces", Status: Warn, Detail: fmt.Sprintf("not allowed: %v", err),
			Fix: "Allow them: sudo sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000",
		}
	}
	return Check{Name: "user namespaces", Status: OK, Detail: "allowed"}
}

// checkLandlock asks the kernel for the version of its Landlock interface.
func checkLandlock() Check {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return Check{
			Name: "landlock", Status: Warn, Detail: fmt.Sprintf("not available: %v", errno),
			Fix: "Use Linux 5.13 or later with landlock in its lsm= list.",
		}
	}
	return Check{Name: "landlock", Status: OK, Detail: fmt.Sprintf("version %d", version)}
}

func checkSeccomp() Check {
	b, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	if err != nil || !strings.Contains(string(b), "kill_process") {
		return Check{
			Name: "seccomp", Status: Warn, Detail: "filters are not available",
			Fix: "Use a kernel with CONFIG_SECCOMP_FILTER.",
		}
	}
	return Check{Name: "seccomp", Status: OK, Detail: "filters are available"}
}
