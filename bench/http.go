package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/smolvm/smolvm"
)

// httpOver is what a request over HTTP may add to the SDK, and Python to a request.
const httpOver = 3 * time.Millisecond

// httpBulk is the size of a file that is moved, in bytes.
const httpBulk = 16 << 20

// httpWay is a way to do one thing. Its function returns what that took.
type httpWay struct {
	what string
	turn func(ctx context.Context) (time.Duration, error)
}

// https measures the ways to one sandbox through a gateway of its own, in turns;
// the SDK in this process is their floor.
func https(ctx context.Context, b *suite) error {
	sb, err := b.client.Create(ctx, b.spec)
	if err != nil {
		return err
	}
	defer sb.Remove(context.WithoutCancel(ctx))
	g, err := serveHTTP(ctx, b, sb.ID())
	if err != nil {
		return err
	}
	defer g.close()
	if err := g.execs(ctx, sb); err != nil {
		return err
	}
	if err := g.firstBytes(ctx, sb); err != nil {
		return err
	}
	return g.files(ctx, sb)
}

func (g *httpGate) execs(ctx context.Context, sb *smolvm.Sandbox) error {
	far, err := g.sdk(ctx, &smolvm.Client{BaseURL: "unix://" + g.socket})
	if err != nil {
		return err
	}
	keyed, err := g.sdk(ctx, &smolvm.Client{BaseURL: g.url, APIKey: g.key})
	if err != nil {
		return err
	}
	py, err := g.python(ctx)
	if err != nil {
		return err
	}
	defer py.close()
	s, err := inTurns(ctx, 300, 30, []httpWay{
		{"SDK, local: Run(true)", timed(runTrue(sb))},
		{"SDK over a gateway, Unix socket", timed(runTrue(far))},
		{"SDK over a gateway, TCP with a key", timed(runTrue(keyed))},
		{"POST exec, Unix socket, kept connection", timed(g.postTrue)},
		{"Python package, Unix socket", py.turn},
	})
	if err != nil {
		return err
	}
	adds(s[3], s[0], "HTTP over the SDK")
	adds(s[4], s[3], "Python over HTTP")
	return nil
}

func (g *httpGate) firstBytes(ctx context.Context, sb *smolvm.Sandbox) error {
	_, err := inTurns(ctx, 100, 10, []httpWay{
		{"first byte of an exec, SDK, local", func(ctx context.Context) (time.Duration, error) { return firstOfSDK(ctx, sb) }},
		{"the same, server-sent events", g.firstOfEvents},
		{"the same, WebSocket with its handshake", g.firstOfSocket},
	})
	return err
}

func (g *httpGate) files(ctx context.Context, sb *smolvm.Sandbox) error {
	const path = "/root/bulk"
	content := bytes.Repeat([]byte("0123456789abcdef"), httpBulk/16)
	at := g.base + "/files/content?path=" + path
	if err := rates(ctx, []httpWay{
		{"write 16 MiB, SDK, local", timed(func(ctx context.Context) error {
			return sb.WriteFile(ctx, path, bytes.NewReader(content), smolvm.FileOptions{})
		})},
		{"write 16 MiB, PUT", timed(func(ctx context.Context) error {
			return g.whole(ctx, http.MethodPut, at, content, 0)
		})},
	}); err != nil {
		return err
	}
	return rates(ctx, []httpWay{
		{"read 16 MiB, SDK, local", timed(func(ctx context.Context) error {
			r, _, err := sb.OpenFile(ctx, path)
			if err != nil {
				return err
			}
			defer r.Close()
			return drain(r, httpBulk)
		})},
		{"read 16 MiB, GET", timed(func(ctx context.Context) error {
			return g.whole(ctx, http.MethodGet, at, nil, httpBulk)
		})},
	})
}

// rates measures ways to move a file in turns.
func rates(ctx context.Context, ways []httpWay) error {
	samples, err := inTurns(ctx, 10, 1, ways)
	if err != nil {
		return err
	}
	for k, w := range ways {
		fmt.Printf("  %-44s %8.2f MB/s\n", w.what, httpBulk/1e6/samples[k].at(50).Seconds())
	}
	return nil
}

// inTurns does each way n times after some that do not count, one after the other,
// and reports them with the first as the floor.
func inTurns(ctx context.Context, n, warm int, ways []httpWay) ([]sample, error) {
	s := make([]sample, len(ways))
	for i := range n + warm {
		for k, w := range ways {
			took, err := w.turn(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.what, err)
			}
			if i >= warm {
				s[k] = append(s[k], took)
			}
		}
	}
	for k, w := range ways {
		s[k] = sorted(s[k])
		report(w.what, s[k], s[0])
	}
	return s, nil
}

// adds prints what one thing adds to another, with its target.
func adds(s, floor sample, what string) {
	more := s.at(50) - floor.at(50)
	target(more <= httpOver, fmt.Sprintf("%s at most %v: %+.2f ms", what, httpOver, ms(more)))
}

func timed(f func(context.Context) error) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		t := time.Now()
		err := f(ctx)
		return time.Since(t), err
	}
}

func runTrue(sb *smolvm.Sandbox) func(context.Context) error {
	return func(ctx context.Context) error {
		res, err := sb.Run(ctx, smolvm.Command{Argv: []string{"/bin/true"}})
		if err == nil && !res.OK() {
			err = fmt.Errorf("exit status %d", res.ExitCode)
		}
		return err
	}
}
