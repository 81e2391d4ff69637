package intercept

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"
)

// Flow is one TCP connection of the guest and what is to be done with it.
type Flow struct {
	// TLS says that the guest begins with a client hello. Otherwise it speaks
	// HTTP/1 in clear.
	TLS bool
	// Name is what the guest connected to: a name in lower case without the last
	// dot, or an address where it used a bare one. Within TLS it must be the hello's
	// server name, if that has one; the guest is shown a certificate for it, and the
	// server must have a valid one for it.
	Name string
	// Port is the port that the guest connected to, as the Host header of requests
	// has it.
	Port uint16

	// Dial connects to the server. It is called only for requests that are allowed,
	// within TLS always with the flow's name, and otherwise with Answer.Name. It may
	// be called several times, also at once, and its context ends with the flow.
	// An error of it is shown to the guest, so it should say what was tried.
	Dial func(ctx context.Context, name string) (net.Conn, error)
	// Decide answers for one request. It may take its time, as for a person's
	// answer; its context ends when the guest gives up, where that can be known.
	// Nil denies all.
	Decide func(ctx context.Context, r *Request) Answer
	// Rewrite changes a request that is allowed, just before it goes to the server;
	// nil leaves it. An error refuses it with status 502, and the text is shown.
	// Nothing of what it writes is seen by a server that is not verified.
	Rewrite func(ctx context.Context, out *Outgoing) error
	// Observe is told of each request once, when all of it is over, in the order of
	// their ends; nil: nobody.
	Observe func(e *Exchange)
}

// Request is the head of a request, as the guest sent it.
type Request struct {
	Method  string
	Scheme  string // "https" or "http"
	Host    string // the Host header or :authority, perhaps with a port; of CONNECT the target
	Path    string // as on the wire, with its query; empty for CONNECT; "*" of OPTIONS
	Proto   string // "HTTP/1.0", "HTTP/1.1" or "HTTP/2.0"
	Upgrade string // the protocol it wants to switch to, lower case, such as "websocket"; empty: none
	Length  int64  // of its body, in bytes; -1: not said
	Header  http.Header
}

// Answer is what is decided about a request. The zero value denies.
type Answer struct {
	Allow bool
	// Name is what Dial is called with outside of TLS; empty: the flow's name.
	Name string
	// Opaque allows what hides further requests: CONNECT, and a switch to another
	// protocol than WebSocket. Without it CONNECT is denied, and the guest's wish to
	// switch is not passed on, which servers take for an ordinary request.
	Opaque bool

	Rule string // which rule decided; empty: none
	Code string // for programs, such as egress.Code
	Why  string // one sentence for a person
	Help string // what to do about a denial; empty: nothing is said
}

// Outgoing is a request on its way to the server.
type Outgoing struct {
	Method string
	Scheme string // "https": it goes to a server that is verified for Name, and to none else
	Name   string // of the server, as it was dialled
	Host   string // as in Request

	// To change. Path is as in Request. Body may be replaced by a reader of another
	// length, which is then to be set: -1 where it is not known before. Close is
	// called on what stands there in the end. Body is nil where there is none.
	Path   string
	Header http.Header
	Body   io.ReadCloser
	Length int64

	// Secrets are names for Exchange.Secrets; Rewrite appends what it used.
	Secrets []string
}

// Exchange is one request and what became of it.
type Exchange struct {
	Request Request
	Answer  Answer
	// Status is what the guest got, of us or of the server; 0: nothing.
	Status int
	// Passed says that the request was sent to a server, at least in part.
	Passed bool
	// Upstream is the protocol of the server's response; empty: there was none.
	Upstream string
	// Type is the Content-Type of the server's response.
	Type string
	// Err says what failed, for people; empty: nothing.
	Err string
	// Secrets names what Rewrite put in.
	Secrets []string

	Began time.Time
	// Waited is the time for the decision, FirstByte from the beginning to the
	// response's head, Took to the end of everything. FirstByte is 0 without one.
	Waited, FirstByte, Took time.Duration
	// Up and Down are the bytes of the bodies, and of what followed a switch.
	Up, Down int64
}
