// Floor is the smallest guest that can run a command: for each byte that comes
// over the channel it starts /bin/true, waits for it and sends the byte back.
// Its round trip is the floor that the agent's is compared with.
package main

import (
	"os"
	"syscall"

	"github.com/smolvm/smolvm/internal/guest/agent/boot"
)

func main() {
	port, err := boot.Port()
	if err != nil {
		os.Stderr.WriteString("floor: " + err.Error() + "\n")
		return
	}
	b := make([]byte, 1)
	for {
		if n, _ := port.Read(b); n == 0 {
			continue
		}
		pid, err := syscall.ForkExec("/bin/true", []string{"true"}, nil)
		if err != nil {
			os.Stderr.WriteString("floor: " + err.Error() + "\n")
			return
		}
		syscall.Wait4(pid, nil, 0, nil)
		port.Write(b)
	}
}
