// Smolvm-agent is the first process of a guest, and its agent.
//
//	/init                      in a guest: boots it and serves its host
//	/init floor                in a guest that is measured: boots it and has no agent
//	smolvm-agent FD            elsewhere: serves the connection on descriptor FD
//
// The last form is for tests: it runs processes as the user that it runs as.
package main

import (
	"context"
	"os"
	"strconv"

	"github.com/smolvm/smolvm/internal/guest/agent"
	"github.com/smolvm/smolvm/internal/guest/agent/boot"
)

// version is set by the linker.
var version = "dev"

func main() {
	if os.Getpid() == 1 {
		if len(os.Args) == 2 && os.Args[1] == "floor" {
			boot.RunFloor()
		}
		boot.Run(version)
	}
	os.Exit(serve(os.Args[1:]))
}

func serve(args []string) int {
	if len(args) != 1 {
		os.Stderr.WriteString("smolvm-agent: runs as the first process of a guest\n")
		return 2
	}
	fd, err := strconv.Atoi(args[0])
	if err != nil || fd < 3 {
		os.Stderr.WriteString("smolvm-agent: " + strconv.Quote(args[0]) + " is not a descriptor\n")
		return 2
	}
	conn := os.NewFile(uintptr(fd), "host")
	if err := agent.Serve(context.Background(), conn, agent.Options{Version: version}); err != nil {
		os.Stderr.WriteString("smolvm-agent: " + err.Error() + "\n")
		return 1
	}
	return 0
}
