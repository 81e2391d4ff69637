package agent

import (
	"io"
	"math"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// exec serves OpExec.
func (a *Agent) exec(s stream, req []byte) error {
	var e guest.Exec
	if err := unmarshal(req, &e); err != nil {
		return err
	}
	plan, err := a.prepare(&e)
	if err != nil {
		return err
	}
	if e.Detach {
		return a.execDetached(s, plan, &e)
	}
	p, err := a.start(s, plan, &e)
	if err != nil {
		return err
	}
	a.front.add(p, s.Session())
	defer a.front.remove(p)
	s.reply(&guest.Started{PID: p.child.pid})
	a.work.Go(func() { p.follow(s) })
	exit := p.runLimited(streamSink{s}, &e)
	return s.queue(guest.KindExit, wire.Marshal(&exit))
}

// runLimited is run with the bounds of a request.
func (p *proc) runLimited(out sink, e *guest.Exec) guest.Exit {
	limit := e.OutputLimit
	if limit == 0 {
		limit = math.MaxInt64
	}
	l := &limitSink{sink: out, left: [2]int64{limit, limit}}
	exit := p.run(l, time.Duration(e.TimeoutMS)*time.Millisecond)
	exit.Truncated = l.truncated
	return exit
}

// follow hands a process what the host sends, and kills it when the host ends
// the stream, also while the process does not take what was sent. When the stream
// ends because the process has, nothing is left to kill. A stream that is lost while
// all stand still may be lost because this guest is a copy: then the process is no
// less part of it than those in the background.
func (p *proc) follow(s stream) {
	p.a.work.Go(func() {
		switch err := p.feed(s); {
		case err == io.EOF:
			p.write(nil)
		case api.ClassOf(err) == api.Invalid:
			p.kill(false) // it makes no sense
		}
	})
	s.AwaitEnd()
	p.a.freezer.awaitThaw()
	if !p.kept.Load() {
		p.kill(false)
	}
}

// feed hands a process what the host sends, to the host's end or the stream's.
func (p *proc) feed(s stream) error {
	for {
		m, err := s.recv()
		if err == nil {
			err = p.message(m)
		}
		if err != nil {
			return err
		}
	}
}

// streamSink passes output to the host. Waiting for the host holds the process
// up when its pipe is full. Once the host is gone output is dropped.
type streamSink struct{ s stream }

func (o streamSink) output(k guest.Kind, p []byte) { o.s.queue(k, p) }
func (o streamSink) flush()                        { o.s.Flush() }
