// Smolvm gives AI agents disposable computers.
//
//	smolvm run -- python3 -c 'print(6 * 7)'
//
// It is the command line and, executed again with hidden commands, the supervisor
// of one sandbox and the keeper of pools.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/smolvm/smolvm/internal/cli"
	"github.com/smolvm/smolvm/internal/vmm/qemu"
)

// version is set by the linker: -X main.version=...
var version string

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	if len(args) > 0 && args[0] == "supervise" {
		return supervise(args[1:]) // has its own way with signals
	}
	if len(args) > 0 && args[0] == "keep" {
		return keep(args[1:])
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		cancel(cli.Signal{Signal: <-signals})
		// The second one ends the program without waiting for a clean-up.
		signal.Stop(signals)
	}()
	return cli.Main(ctx, args, cli.OS(), cli.Build{Version: version, Driver: new(qemu.Driver), Floor: floor})
}
