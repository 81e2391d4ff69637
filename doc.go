// Package smolvm gives a program disposable computers: each sandbox is a microVM
// with its own kernel, disk and processes.
//
//	sb, err := smolvm.Create(ctx, smolvm.Spec{})
//	if err != nil { ... }
//	defer sb.Remove(ctx)
//	res, err := sb.Run(ctx, smolvm.Command{Argv: []string{"python3", "-c", "print(6*7)"}})
//	fmt.Println(res.ExitCode, string(res.Stdout))
//
// A sandbox is run by a process of its own, the supervisor, which the package
// starts from the smolvm program. It is looked for in Client.Binary, $SMOLVM_BIN,
// next to the running program, and in $PATH. There is no daemon: what one client
// makes, every client of the same state directory can Get, List and Remove.
//
// # Contexts
//
// A context bounds the call it is given to, never the life of what the call
// made. Cancelling the context of Run or Exec ends the command.
//
// # Errors
//
// Every error is an [Error], found by errors.As, or tested by class with
// errors.Is(err, smolvm.ErrNotFound) and its like. A command that ran and exited
// with a status other than zero is not an error: see Result.ExitCode.
package smolvm
