package network

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/egress/sniff"
	"github.com/smolvm/smolvm/internal/intercept"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/secret"
)

// rewrite puts secrets into a request that is allowed.
func (f *flow) rewrite(_ context.Context, out *intercept.Outgoing) error {
	vault := f.n.cfg.Secrets
	if !vault.Any() {
		return nil
	}
	r := secret.Request{
		Host: out.Name, Secure: out.Scheme == "https",
		Path: out.Path, Header: out.Header, Body: out.Body, Length: out.Length,
	}
	found := findings{f: f, seen: api.NetworkHTTP{Method: out.Method, Scheme: out.Scheme, Host: out.Host, Path: out.Path}}
	if err := vault.Rewrite(&r, found.add); err != nil {
		return err
	}
	out.Path, out.Header, out.Body, out.Length = r.Path, r.Header, r.Body, r.Length
	out.Secrets = append(out.Secrets, found.take()...)
	return nil
}

// findings are the placeholders of one request. Some are found only while its body
// goes out, when the request's own entry cannot name them any more.
type findings struct {
	f    *flow
	seen api.NetworkHTTP // the request as the guest wrote it

	mu    sync.Mutex
	taken bool
	put   []string
}

func (s *findings) add(found secret.Finding) {
	if !found.Put {
		s.f.alarm(fmt.Sprintf("The placeholder of secret %s stays in the request's %s: %s", found.Secret, found.Where, found.Why), []string{found.Secret}, &s.seen)
		return
	}
	s.mu.Lock()
	late := s.taken
	if !slices.Contains(s.put, found.Secret) { // it may be at several places
		s.put = append(s.put, found.Secret)
	}
	s.mu.Unlock()
	if late {
		e := s.f.entry(api.EventSecret)
		e.Secrets, e.HTTP, e.Reason = []string{found.Secret}, &s.seen, "A secret was put into the "+found.Where+" while it went out."
		s.f.write(e)
	}
}

func (s *findings) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = true
	return s.put
}

func (f *flow) alarm(why string, secrets []string, h *api.NetworkHTTP) {
	e := f.entry(api.EventAlarm)
	e.Reason, e.Secrets, e.HTTP = why, secrets, h
	f.write(e)
}

// alarmBytes looks for placeholders in the first bytes of a flow that is no HTTP:
// in those of HTTP they may have their place.
func (f *flow) alarmBytes(kind sniff.Kind, seen []byte) {
	if kind == sniff.HTTP1 {
		return
	}
	if names := f.n.cfg.Secrets.Find(seen); len(names) > 0 {
		f.alarm("The placeholder of secret "+strings.Join(names, ", ")+" is in the first bytes of a flow that no secret is put into.", names, nil)
	}
}

// alarmName looks for placeholders in a name that is asked for.
func (n *Network) alarmName(q netstack.Question) {
	if names := n.cfg.Secrets.Find([]byte(q.Name)); len(names) > 0 {
		n.record(api.NetworkEntry{
			Kind: api.EventAlarm, Proto: egress.DNS, Host: q.Name, Secrets: names,
			Reason: "The placeholder of secret " + strings.Join(names, ", ") + " is in a name that the guest asks for.",
		})
	}
}
