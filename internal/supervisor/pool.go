package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/guest"
)

// member is what a sandbox has beside others while it waits in a pool.
type member struct {
	entry string     // the file that says that it waits
	birth *birth     // open until it is taken
	once  sync.Mutex // held while somebody takes it
	taken bool
}

// wait has the sandbox, which is up, wait in its pool: it has run what clients run
// first, because the VMM has translated that code then, and stands still.
func (s *Supervisor) wait(ctx context.Context) error {
	if err := warmUp(ctx, guest.Client{Opener: s.session()}); err != nil {
		return err
	}
	if err := s.vm.Pause(ctx); err != nil {
		return err
	}
	info := s.vm.Info()
	_, err := s.gate.update(func(st *control.Status) error {
		st.State, st.VMMPID, st.Accel = api.StatePooled, info.PID, info.Accel
		return nil
	})
	if err != nil {
		return err
	}
	dir := s.parts.Store.PoolMembers(control.PoolKey(s.record().Spec))
	s.member.entry = filepath.Join(dir, s.record().ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(s.member.entry, nil, 0o600)
}

// claim serves RouteClaim: the sandbox becomes its caller's. Only the first caller
// gets it.
func (s *Supervisor) claim(w http.ResponseWriter, r *http.Request) {
	if s.member == nil || r.Header.Get("Upgrade") != control.ClaimProtocol {
		control.Answer(w, nil, api.Errorf(api.Invalid, "take sandbox: it waits in no pool, or the upgrade is not to %s", control.ClaimProtocol))
		return
	}
	conn, in, err := upgraded(w, control.ClaimProtocol)
	if err != nil {
		return
	}
	var c control.Create
	if json.NewDecoder(io.LimitReader(in, maxSpec)).Decode(&c) != nil {
		conn.Close()
		return
	}
	conn.SetDeadline(time.Time{})
	if err := s.serveClaim(conn, c, lifelineOf(in)); err != nil {
		conn.Close()
	}
}

// serveClaim has the sandbox taken and tells the client, which may go meanwhile: as
// with every create, what nobody learnt of is undone.
func (s *Supervisor) serveClaim(conn net.Conn, c control.Create, client <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(s.server.closing, bootTime)
	defer cancel()
	go func() {
		select {
		case <-client:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := s.take(ctx, c, client)
	if err != nil {
		return errors.Join(err, json.NewEncoder(conn).Encode(control.Birth{Error: api.AsError(err)}))
	}
	info := s.describe()
	if err = ctx.Err(); err == nil {
		err = json.NewEncoder(conn).Encode(control.Birth{Sandbox: &info})
	}
	if err != nil {
		s.spend("its client ended")
		return err
	}
	go func() { // for an ephemeral sandbox that is the end
		<-client
		conn.Close()
	}()
	return nil
}

// lifelineOf is closed when the peer of a connection has gone, or says no more.
func lifelineOf(r *bufio.Reader) <-chan struct{} {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		io.Copy(io.Discard, r)
	}()
	return gone
}

var errTaken = api.Errorf(api.Conflict, "take sandbox: somebody else was faster")

// take makes the waiting sandbox what c asks for. A member whose taking fails in
// the middle ends: it never serves twice.
func (s *Supervisor) take(ctx context.Context, c control.Create, client <-chan struct{}) error {
	if !s.member.once.TryLock() {
		return errTaken // or it may be: there are others to try
	}
	defer s.member.once.Unlock()
	if s.member.taken {
		return errTaken
	}
	spec := c.Spec.WithDefaults()
	if err := s.fits(ctx, spec); err != nil {
		return err
	}
	err := settle(&spec.Network)
	if err != nil {
		return err
	}
	if spec.Ports, err = s.bindPorts(spec.Ports); err != nil {
		return err
	}
	s.member.taken = true
	os.Remove(s.member.entry)
	defer s.member.birth.close() // the keeper makes another
	if err = s.takeSecrets(&spec); err == nil {
		err = s.swap(ctx, func(ctx context.Context) error { return s.become(ctx, spec, client) })
	}
	if err != nil {
		s.spend("its client ended")
		return api.Errorf(api.ClassOf(err), "take sandbox: %w", err).WithCode(control.CodeSpent)
	}
	return nil
}

// spend ends a member that is of no use to anybody.
func (s *Supervisor) spend(reason string) {
	select {
	case s.ends <- end{state: api.StateStopped, reason: reason, grace: -1, remove: true}:
	case <-s.over:
	}
}

// fits refuses a spec that the member cannot be.
func (s *Supervisor) fits(ctx context.Context, spec api.Spec) error {
	if err := spec.Check(); err != nil {
		return err
	}
	if err := s.nameFree(spec.Name); err != nil {
		return err
	}
	rec := s.record()
	if control.PoolKey(spec) != control.PoolKey(rec.Spec) {
		return api.Errorf(api.Conflict, "take sandbox: its pool is another")
	}
	if err := s.checkHost(ctx, spec); err != nil {
		return err
	}
	img, err := s.parts.Provider.Image(ctx, spec.Image, func(control.Progress) {})
	if err != nil {
		return err
	}
	if img.ID != rec.Image.ID {
		// It will not fit anybody any more.
		go s.spend("its image was replaced")
		return api.Errorf(api.Conflict, "take sandbox: image %q was replaced since it was made", spec.Image)
	}
	return nil
}

// become gives the member its name and wakes it.
func (s *Supervisor) become(ctx context.Context, spec api.Spec, client <-chan struct{}) error {
	t := time.Now()
	id := s.record().ID
	generated := spec.Name == ""
	for {
		if generated {
			spec.Name = newName()
		}
		err := s.parts.Store.Name(id, spec.Name)
		if generated && errors.Is(err, api.ErrConflict) {
			continue
		}
		if err != nil {
			return err
		}
		break
	}
	err := s.change(func(r *control.Record) error {
		r.Spec, r.Origin, r.Created = spec, "pool", t.UTC().Round(time.Millisecond)
		return nil
	})
	if err != nil {
		return err
	}
	s.client = client
	s.idle.reset(spec.IdleTimeout())
	if err := s.serveNetwork(spec.Network); err != nil {
		return err
	}
	if err := s.openFolders(); err != nil {
		return err
	}
	if err := s.vm.Resume(ctx); err != nil {
		return err
	}
	s.trustAuthority(ctx)
	// The rest of its identity it got when it was made, and nobody else has it.
	setup := guest.Setup{Hostname: spec.Name, TimeNS: time.Now().UnixNano(), Network: guestNetwork(spec.Network)}
	if err := (guest.Client{Opener: s.session()}).Setup(ctx, setup); err != nil {
		return err
	}
	if err := s.mountFolders(ctx); err != nil {
		return err
	}
	s.timings = api.Timings{SetupMS: ms(t), TotalMS: ms(t)}
	return s.running()
}
