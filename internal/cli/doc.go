// Package cli is smolvm's command line.
//
//	os.Exit(cli.Main(ctx, os.Args[1:], cli.OS(), cli.Build{Version: version}))
//
// Each command has a file of its own that holds a constructor, which fills an
// options struct from flags, and a method that runs it over the SDK and returns
// an outcome. What is printed, as text or as JSON, and the exit status are
// decided in one place, output.go.
//
// # Output
//
// Standard output holds what was asked for and nothing else. Progress, notes
// and errors go to standard error. With --json standard output holds one object:
// ok, command, exit_code, data, error. Commands that go on (logs -f, attach)
// print one event a line and that object as the last line.
//
// # Exit status
//
//	0        done
//	1        error
//	2        the command line is wrong
//	124      run, exec: the time limit ended the command
//	125      run, exec, shell, attach: smolvm failed, not the command
//	126, 127 run, exec: the command cannot be executed, is not there
//	130, 143 interrupted, terminated
//	other    run, exec, shell, attach, wait: the status of the command itself
package cli
