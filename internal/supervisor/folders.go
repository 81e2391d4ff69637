package supervisor

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/hostfs"
)

// originTemplate is the origin of a sandbox that continues a template.
const originTemplate = "template"

// folders serve the host's folders to the sandbox's VM. They have its life.
type folders struct {
	mu     sync.Mutex
	shared []share
	work   sync.WaitGroup
}

// share is one folder and what serves it.
type share struct {
	api.Mount
	server *hostfs.Server
}

// openFolders opens the host's folders for the next VM: what is missing is said
// before anything starts.
func (s *Supervisor) openFolders() error {
	s.folders.close()
	var list []share
	for _, m := range s.record().Spec.Mounts {
		server, err := hostfs.New(hostfs.Config{
			Folder: m.Host, Writable: m.Writable, Hidden: []string{s.parts.Store.Root()},
		})
		if err != nil {
			closeShares(list)
			return err
		}
		list = append(list, share{m, server})
	}
	s.folders.mu.Lock()
	defer s.folders.mu.Unlock()
	s.folders.shared = list
	return nil
}

// mountFolders has the guest mount the folders, those that it has already too. Other
// folders, of a sandbox whose memory this one continues, it loses.
func (s *Supervisor) mountFolders(ctx context.Context) error {
	s.folders.mu.Lock()
	list := slices.Clone(s.folders.shared)
	s.folders.mu.Unlock()
	if len(list) == 0 && s.record().Origin == originTemplate {
		return nil
	}
	var paths []string
	for _, f := range list {
		paths = append(paths, f.Target())
	}
	if err := (guest.Client{Opener: s.session()}).KeepFolders(ctx, paths); err != nil {
		return err
	}
	for _, f := range list {
		if err := s.mountFolder(ctx, f); err != nil {
			return api.Errorf(api.ClassOf(err), "mount %q at %q: %w", f.Host, f.Target(), err)
		}
	}
	return nil
}

func (s *Supervisor) mountFolder(ctx context.Context, f share) error {
	st, err := s.session().Open(ctx, guest.OpFolder, &guest.Folder{
		Path: f.Target(), User: s.record().Image.User, Writable: f.Writable,
	})
	if err != nil {
		return err
	}
	ready := make(chan error, 1)
	s.folders.work.Go(func() {
		if err := f.server.Serve(st, func(err error) { ready <- err }); err != nil {
			slog.Info("folder is served no more", "folder", f.Host, "err", err)
		}
	})
	select {
	case err := <-ready:
		return err
	case <-ctx.Done():
		st.Close()
		return context.Cause(ctx)
	}
}

// close ends the folders' servers. It may be called again.
func (f *folders) close() {
	f.mu.Lock()
	list := f.shared
	f.shared = nil
	f.mu.Unlock()
	closeShares(list)
	f.work.Wait()
}

func closeShares(list []share) {
	for _, f := range list {
		f.server.Close()
	}
}
