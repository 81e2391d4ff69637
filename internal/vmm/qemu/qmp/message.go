package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// request is a command as it goes over the wire.
type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// message is anything that QEMU sends: a greeting, an event, or an answer.
type message struct {
	Greeting *greeting `json:"QMP"`

	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp timestamp       `json:"timestamp"`

	ID     *uint64         `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *refusal        `json:"error"`
}

type greeting struct {
	Version struct {
		QEMU Version `json:"qemu"`
	} `json:"version"`
}

type timestamp struct {
	Seconds      int64 `json:"seconds"`
	Microseconds int64 `json:"microseconds"`
}

func (t timestamp) time() time.Time { return time.Unix(t.Seconds, t.Microseconds*1000) }

type refusal struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// decode gives the answer to command.
func (m message) decode(command string, result any) error {
	if m.Error != nil {
		return &Error{Command: command, Class: m.Error.Class, Desc: m.Error.Desc}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("qmp %s: decode answer: %w", command, err)
	}
	return nil
}

// decoder reads messages, one a line.
type decoder struct{ r *bufio.Reader }

func newDecoder(r io.Reader) *decoder { return &decoder{bufio.NewReaderSize(r, 16<<10)} }

// next returns the next message, which is a greeting, an event or an answer and
// nothing in between.
func (d *decoder) next() (message, error) {
	line, err := d.line()
	if err != nil {
		return message{}, err
	}
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("decode message: %w", err)
	}
	switch {
	case m.Greeting != nil, m.Event != "", m.Error != nil:
		return m, nil
	case m.ID != nil && m.Return != nil:
		return m, nil
	}
	return message{}, errors.New("a message that is no greeting, event or answer")
}

func (d *decoder) line() ([]byte, error) {
	var line []byte
	for {
		part, err := d.r.ReadSlice('\n')
		if len(line)+len(part) > MaxLine {
			return nil, fmt.Errorf("a message longer than %d bytes", MaxLine)
		}
		line = append(line, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err == io.EOF && len(bytes.TrimSpace(line)) > 0 {
			return nil, io.ErrUnexpectedEOF
		}
		return line, err
	}
}
