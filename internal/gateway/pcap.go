package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/control"
)

const typePcapNG = "application/x-pcapng"

func (s *Server) pcapRoutes() {
	stream(s, op{
		ID: "capture-packets", Method: http.MethodGet, Path: "/v1/sandboxes/{id}/network/pcap", Scope: apikey.Run, Tag: tagNetwork,
		Summary: "Capture the packets of a sandbox's network card as pcapng",
		Details: "Until the time is over, the client goes away or the sandbox's network ends. With Upgrade: " + control.CaptureProtocol +
			" until the client closes its side of the connection, and then what is left.",
		Answers: map[string]*huma.Schema{typePcapNG: nil},
	}, s.pcap)
}

type pcapInput struct {
	Ref
	Seconds float64 `query:"seconds" minimum:"0" maximum:"86400" doc:"end after this time; zero: go on"`
}

func (s *Server) pcap(in *pcapInput, w http.ResponseWriter, r *http.Request) error {
	sb, err := s.sandbox(r.Context(), in.Ref)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if in.Seconds > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(in.Seconds*float64(time.Second)))
		defer cancel()
	}
	if r.Header.Get("Upgrade") == control.CaptureProtocol {
		c := &capture{w: w, end: cancel}
		defer c.close()
		return sb.CapturePackets(ctx, c)
	}
	return writing(w, r, typePcapNG, func(out io.Writer) error { return sb.CapturePackets(ctx, out) })
}

// capture is a writer that takes a request's connection over when something is
// written: until then an error can be answered. The client ends the capture by closing
// its side.
type capture struct {
	w    http.ResponseWriter
	end  context.CancelFunc
	conn net.Conn
}

func (c *capture) Write(p []byte) (int, error) {
	if c.conn == nil {
		if err := c.begin(); err != nil {
			return 0, err
		}
	}
	return c.conn.Write(p)
}

func (c *capture) begin() (err error) {
	var buf *bufio.ReadWriter
	if c.conn, buf, err = takeOver(c.w, control.CaptureProtocol); err != nil {
		return err
	}
	go func() { // ends with the connection
		io.Copy(io.Discard, buf)
		c.end()
	}()
	return nil
}

func (c *capture) close() {
	if c.conn != nil {
		c.conn.Close()
	}
}

// takeOver switches a request's connection to a protocol.
func takeOver(w http.ResponseWriter, protocol string) (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	conn.SetDeadline(time.Time{})
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, buf, nil
}
