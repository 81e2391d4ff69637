package boot

import "syscall"

// RunFloor boots the guest as Run does, but has no agent: for each byte that comes
// over the channel it starts /bin/true, waits for it and sends the byte back. It is
// what the agent is measured against.
func RunFloor() {
	if err := floor(); err != nil {
		say("smolvm-agent: floor: " + err.Error())
	}
	powerOff(false)
}

func floor() error {
	port, err := new(booter).boot()
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	for {
		if n, _ := port.Read(b); n == 0 {
			continue // the host went, and another may come
		}
		pid, err := syscall.ForkExec("/bin/true", []string{"true"}, nil)
		if err != nil {
			return err
		}
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
			return err
		}
		if _, err := port.Write(b); err != nil {
			return err
		}
	}
}
