package smolvm

import (
	"context"
	"io"

	"github.com/smolvm/smolvm/api"
)

func (s *Sandbox) run(ctx context.Context, c Command) (*Result, error)                    { panic(0) }
func (s *Sandbox) exec(ctx context.Context, c Command) (*Process, error)                  { panic(0) }
func (s *Sandbox) background(ctx context.Context, c Command) (api.Process, error)         { panic(0) }
func (s *Sandbox) processes(ctx context.Context) ([]api.Process, error)                   { panic(0) }
func (s *Sandbox) guestProcesses(ctx context.Context) ([]GuestProcess, error)             { panic(0) }
func (s *Sandbox) attach(ctx context.Context, id string, o AttachOptions) (Ended, error)  { panic(0) }
func (s *Sandbox) signalProcess(ctx context.Context, id, signal string) error             { panic(0) }
func (s *Sandbox) forget(ctx context.Context, id string) error                            { panic(0) }
func (s *Sandbox) readFile(ctx context.Context, path string, limit int64) ([]byte, error) { panic(0) }
func (s *Sandbox) openFile(ctx context.Context, path string) (io.ReadCloser, FileInfo, error) {
	panic(0)
}
func (s *Sandbox) writeFile(ctx context.Context, path string, r io.Reader, o FileOptions) error {
	panic(0)
}
func (s *Sandbox) stat(ctx context.Context, path string) (FileInfo, error)            { panic(0) }
func (s *Sandbox) readDir(ctx context.Context, path string) ([]FileInfo, error)       { panic(0) }
func (s *Sandbox) mkdir(ctx context.Context, path string, o FileOptions) error        { panic(0) }
func (s *Sandbox) removeFile(ctx context.Context, path string, o RemoveOptions) error { panic(0) }
func (s *Sandbox) renameFile(ctx context.Context, from, to string) error              { panic(0) }
func (s *Sandbox) watchFiles(ctx context.Context, path string, recursive bool, f func(FileEvent) bool) error {
	panic(0)
}
func (s *Sandbox) copyIn(ctx context.Context, h, g string, o CopyOptions) (Copied, error)  { panic(0) }
func (s *Sandbox) copyOut(ctx context.Context, g, h string, o CopyOptions) (Copied, error) { panic(0) }
func (s *Sandbox) tarIn(ctx context.Context, dir string, tar io.Reader, o CopyOptions) (Copied, error) {
	panic(0)
}
func (s *Sandbox) tarOut(ctx context.Context, dir string, paths []string) (io.ReadCloser, error) {
	panic(0)
}

// Process is a command under way.
type Process struct{}

// PID returns the process's id in the guest.
func (p *Process) PID() int { panic(0) }

// Wait waits for the process and for its output to be delivered.
func (p *Process) Wait() (Ended, error) { panic(0) }

// Signal sends a signal such as "SIGINT" to the process and all it started.
func (p *Process) Signal(name string) error { panic(0) }

// Resize tells the process's terminal its new size.
func (p *Process) Resize(rows, cols int) error { panic(0) }

// Close ends the process if it still runs. A second call does nothing.
func (p *Process) Close() error { panic(0) }
