package guest

import (
	"context"
	"io"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// ReadFile opens a file for reading. Close the reader.
func (c Client) ReadFile(ctx context.Context, r Read) (FileInfo, io.ReadCloser, error) {
	st, err := c.open(ctx, OpRead, &r)
	if err != nil {
		return FileInfo{}, nil, err
	}
	var info FileInfo
	if err := st.reply(&info); err != nil {
		st.Close()
		return FileInfo{}, nil, err
	}
	return info, &dataReader{st: st}, nil
}

// WriteFile replaces a file by what r holds.
func (c Client) WriteFile(ctx context.Context, w Write, r io.Reader) (FileInfo, error) {
	var info FileInfo
	err := c.upload(ctx, OpWrite, &w, r, &info)
	return info, err
}

// TarOut returns a tar stream of files of the guest. Close the reader.
func (c Client) TarOut(ctx context.Context, t TarOut) (io.ReadCloser, error) {
	return c.download(ctx, OpTarOut, &t)
}

// TarIn unpacks a tar stream in the guest.
func (c Client) TarIn(ctx context.Context, t TarIn, r io.Reader) (TarResult, error) {
	var res TarResult
	err := c.upload(ctx, OpTarIn, &t, r, &res)
	return res, err
}

// Changes returns what changed in the guest since Mark, as the tar stream of an
// OCI layer. Close the reader.
func (c Client) Changes(ctx context.Context) (io.ReadCloser, error) {
	return c.download(ctx, OpChanges, &Empty{})
}

// download opens a stream of Data. An operation that refuses says so in the
// reader's first Read.
func (c Client) download(ctx context.Context, op Op, req wire.Message) (io.ReadCloser, error) {
	st, err := c.open(ctx, op, req)
	if err != nil {
		return nil, err
	}
	return &dataReader{st: st}, nil
}

// upload sends r as Data and takes the reply.
func (c Client) upload(ctx context.Context, op Op, req wire.Message, r io.Reader, reply wire.Message) error {
	st, err := c.open(ctx, op, req)
	if err != nil {
		return err
	}
	defer st.Close()
	buf := make([]byte, MaxPayload)
	for {
		n, rerr := fill(r, buf)
		if n > 0 && st.Send(KindData, buf[:n]) != nil {
			break // the guest has ended: the reply says why
		}
		if rerr == io.EOF {
			st.CloseSend()
			break
		}
		if rerr != nil {
			return rerr // Close without an end: the guest drops what it has
		}
	}
	return st.reply(reply)
}

// fill reads until buf is full or r ends. It is io.ReadFull but for what that makes of
// the end: a reader's own io.ErrUnexpectedEOF says that the source was cut off.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// dataReader reads the Data of a stream.
type dataReader struct {
	st   *bound
	rest []byte
	err  error
}

func (d *dataReader) Read(p []byte) (int, error) {
	for len(d.rest) == 0 && d.err == nil {
		m, err := d.st.recv()
		switch {
		case err != nil:
			d.err = err
		case m.Kind != KindData:
			d.err = api.Errorf(api.Internal, "receive data: a message of kind %d", m.Kind)
		default:
			d.rest = m.Payload
		}
	}
	if len(d.rest) == 0 {
		return 0, d.err
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

func (d *dataReader) Close() error { return d.st.Close() }

// Watcher reports changes of files.
type Watcher struct{ st *bound }

// Watch reports changes below a path from its return on. Close the watcher.
func (c Client) Watch(ctx context.Context, w Watch) (*Watcher, error) {
	st, err := c.open(ctx, OpWatch, &w)
	if err != nil {
		return nil, err
	}
	if err := st.reply(&Empty{}); err != nil {
		st.Close()
		return nil, err
	}
	return &Watcher{st}, nil
}

// Next waits for the next change. io.EOF says that the watched path is gone.
func (w *Watcher) Next() (Event, error) {
	m, err := w.st.recv()
	if err != nil {
		return Event{}, err
	}
	var e Event
	err = unmarshal(m.Payload, &e)
	return e, err
}

// Close ends the watch.
func (w *Watcher) Close() error { return w.st.Close() }
