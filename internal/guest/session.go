package guest

import (
	"context"
	"errors"
	"io"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest/mux"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// Session is the host's connection to a guest's agent over the virtio-serial
// channel. It opens streams for many callers at once.
type Session struct{ mux *mux.Session }

// Connect greets the agent behind conn until it answers, however long its boot
// takes. The context bounds the call only. Connect owns conn from now on, and
// closes it on failure; class Timeout where ctx's time ran out.
func Connect(ctx context.Context, conn io.ReadWriteCloser) (*Session, error) {
	m, err := mux.Connect(ctx, conn, Version)
	if err != nil {
		return nil, lost("reach the guest's agent", err)
	}
	return &Session{mux: m}, nil
}

// Open opens a stream. The context bounds the call only.
func (s *Session) Open(ctx context.Context, op Op, req wire.Message) (Stream, error) {
	p, err := packOpen(op, req)
	if err != nil {
		return nil, err
	}
	kind, first := KindOpen, p
	if len(p) > MaxPayload {
		kind, first = KindMore, p[:MaxPayload]
	}
	m, err := s.mux.Open(ctx, uint8(kind), first)
	if err != nil {
		return nil, lost("open a stream to the guest", err)
	}
	st := muxStream{m}
	if kind == KindOpen {
		return st, nil
	}
	stop := context.AfterFunc(ctx, func() { m.Close() })
	defer stop()
	if err := st.Send(KindOpen, p[MaxPayload:]); err != nil {
		m.Close()
		return nil, err
	}
	return st, nil
}

// Done is closed when the session has ended: the guest or its channel is gone.
func (s *Session) Done() <-chan struct{} { return s.mux.Done() }

// Err returns why the session ended, and nil before it has.
func (s *Session) Err() error {
	if err := s.mux.Err(); err != nil {
		return lost("talk to the guest", err)
	}
	return nil
}

// Close ends the session with all its streams and closes the connection.
func (s *Session) Close() error { return s.mux.Close() }

// muxStream makes a Stream of a mux stream.
type muxStream struct{ m *mux.Stream }

func (s muxStream) Send(k Kind, p []byte) error {
	return sendParts(k, p, func(k Kind, p []byte) error {
		if err := s.m.Send(uint8(k), p); err != nil {
			return lost("send to the guest", err)
		}
		return nil
	})
}

func (s muxStream) Recv() (Message, error) {
	k, p, err := s.m.Recv()
	if err == io.EOF {
		return Message{}, err
	}
	if err != nil {
		return Message{}, lost("receive from the guest", err)
	}
	return Message{Kind(k), p}, nil
}

func (s muxStream) CloseSend() error { return s.m.CloseSend() }
func (s muxStream) Close() error     { return s.m.Close() }

// sendParts sends a message by send, which takes MaxPayload bytes, in as many
// parts as it needs.
func sendParts(k Kind, p []byte, send func(Kind, []byte) error) error {
	for len(p) > MaxPayload {
		if err := send(KindMore, p[:MaxPayload]); err != nil {
			return err
		}
		p = p[MaxPayload:]
	}
	return send(k, p)
}

// RecvWhole is st.Recv for messages that may have come in parts, of MaxMessage
// bytes altogether.
func RecvWhole(st Stream) (Message, error) {
	m, err := st.Recv()
	if err != nil || m.Kind != KindMore {
		return m, err
	}
	var whole []byte
	for {
		if len(whole)+len(m.Payload) > MaxMessage {
			return Message{}, api.Errorf(api.Exhausted, "receive a message: it is longer than %d bytes", MaxMessage)
		}
		whole = append(whole, m.Payload...)
		if m.Kind != KindMore {
			return Message{m.Kind, whole}, nil
		}
		if m, err = st.Recv(); err != nil {
			return Message{}, unexpected(err)
		}
	}
}

// Accept receives the first message of a stream: the operation and its packed
// request, which stay valid.
func Accept(st Stream) (Op, wire.Raw, error) {
	m, err := RecvWhole(st)
	if err != nil {
		return 0, nil, unexpected(err)
	}
	if m.Kind != KindOpen || len(m.Payload) == 0 {
		return 0, nil, api.Errorf(api.Invalid, "accept a stream: it begins with a message of kind %d", m.Kind)
	}
	return Op(m.Payload[0]), append(wire.Raw(nil), m.Payload[1:]...), nil
}

func packOpen(op Op, req wire.Message) ([]byte, error) {
	p := append([]byte{byte(op)}, wire.Marshal(req)...)
	if len(p) > MaxMessage {
		return nil, api.Errorf(api.Exhausted, "send a request to the guest: it has %d bytes, %d are the most", len(p), MaxMessage)
	}
	return p, nil
}

// unexpected turns an end of file where more had to come into an error.
func unexpected(err error) error {
	if err == io.EOF {
		return lost("receive from the guest", io.ErrUnexpectedEOF)
	}
	return err
}

// lost gives an error of a carrier its class.
func lost(act string, err error) error {
	class := api.Unavailable
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		class = api.Timeout
	case errors.Is(err, mux.ErrTooMany):
		class = api.Exhausted
	}
	return api.Errorf(class, "%s: %w", act, err)
}
