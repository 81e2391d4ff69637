package forkcheck

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// askTime bounds each command in a guest: under emulation, with all of them at once,
// a first command takes a second.
const askTime = time.Minute

// keysScript gives the source SSH host keys where it has none: what is not there
// cannot be shown to be made anew. Where the image cannot make any they are none, and
// the children must at least not have them.
const keysScript = `
cd /etc/ssh 2>/dev/null || mkdir -p /etc/ssh && cd /etc/ssh || exit 0
ls ssh_host_*_key >/dev/null 2>&1 && exit 0
ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key 2>/dev/null && exit 0
echo planted by forkcheck >ssh_host_ed25519_key
echo ssh-ed25519 planted >ssh_host_ed25519_key.pub`

// countScript counts in a file that is whole at every moment.
const countScript = `
i=0
while :; do i=$((i+1)); echo $i >/run/forkcheck.new; mv /run/forkcheck.new /run/forkcheck; sleep 0.1; done`

// askScript prints what a sandbox is, as lines of KEY=VALUE. It waits until the
// count goes on, for at most ten seconds.
const askScript = `
echo random=$(head -c 16 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
echo uuid=$(cat /proc/sys/kernel/random/uuid)
echo machine-id=$(cat /etc/machine-id 2>/dev/null)
echo boot-id=$(cat /proc/sys/kernel/random/boot_id)
echo hostname=$(cat /proc/sys/kernel/hostname)
echo ssh-key=$(cat /etc/ssh/ssh_host_*_key.pub 2>/dev/null | cut -d ' ' -f 1,2 | tr ' \n' ':,')
n=0; while ! [ -s /run/forkcheck ] && [ $n -lt 100 ]; do n=$((n+1)); sleep 0.1; done
a=$(cat /run/forkcheck); b=$a
while [ "$a" = "$b" ] && [ $n -lt 100 ]; do n=$((n+1)); sleep 0.1; b=$(cat /run/forkcheck); done
echo count=$a
echo later=$b`

// facts are what one sandbox said.
type facts struct {
	name   string            // of the sandbox, on the host
	said   map[string]string // by the keys of askScript
	behind time.Duration     // its clock, of the host's; negative: ahead
}

func (f facts) number(key string) int {
	n, err := strconv.Atoi(f.said[key])
	if err != nil {
		return -1
	}
	return n
}

// prepare makes the source something to be copied.
func prepare(ctx context.Context, sb *smolvm.Sandbox) error {
	if _, err := script(ctx, sb, keysScript); err != nil {
		return err
	}
	_, err := sb.Background(ctx, smolvm.Command{Argv: []string{countScript}, Shell: smolvm.RawShell, User: "root", Tag: "forkcheck"})
	return err
}

// askAll asks several at once.
func askAll(ctx context.Context, list []*smolvm.Sandbox) ([]facts, error) {
	all := make([]facts, len(list))
	g, ctx := errgroup.WithContext(ctx)
	for i, sb := range list {
		g.Go(func() (err error) {
			all[i], err = ask(ctx, sb)
			return err
		})
	}
	return all, g.Wait()
}

func ask(ctx context.Context, sb *smolvm.Sandbox) (facts, error) {
	info, err := sb.Info(ctx)
	if err != nil {
		return facts{}, err
	}
	f := facts{name: info.Name, said: map[string]string{}}
	// First, because a copy's clock that is set late is found wrong early.
	if f.behind, err = clock(ctx, sb); err != nil {
		return f, err
	}
	out, err := script(ctx, sb, askScript)
	for line := range strings.Lines(out) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			f.said[k] = v
		}
	}
	return f, err
}

// clock compares a sandbox's clock with the host's. The guest read its own at some
// moment of the call: what the call took is not held against it.
func clock(ctx context.Context, sb *smolvm.Sandbox) (behind time.Duration, err error) {
	before := time.Now()
	out, err := script(ctx, sb, "date +%s.%N")
	if err != nil {
		return 0, err
	}
	after := time.Now()
	seconds, fraction, _ := strings.Cut(strings.TrimSpace(out), ".")
	s, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return 0, api.Errorf(api.Invalid, "ask %s for the time: it said %.80q", sb.ID(), out)
	}
	ns, err := strconv.ParseInt(fraction, 10, 64)
	if err != nil {
		ns = int64(time.Second) / 2 // a date that counts no fractions; see clockSlack
	}
	now := time.Unix(s, ns)
	switch {
	case now.Before(before):
		return before.Sub(now), nil
	case now.After(after):
		return after.Sub(now), nil
	}
	return 0, nil
}

// script runs a script as root and returns what it printed.
func script(ctx context.Context, sb *smolvm.Sandbox, text string) (string, error) {
	c := smolvm.ShellCommand(text)
	c.User, c.Timeout, c.OutputLimit = "root", askTime, 64<<10
	res, err := sb.Run(ctx, c)
	switch {
	case err != nil:
		return "", err
	case res.TimedOut:
		return "", api.Errorf(api.Timeout, "ask sandbox %s: no answer within %v", sb.ID(), askTime)
	case !res.OK():
		return "", api.Errorf(api.Internal, "ask sandbox %s: status %d: %s", sb.ID(), res.ExitCode,
			fmt.Sprintf("%.200q", bytes.TrimSpace(res.Stderr)))
	}
	return string(res.Stdout), nil
}
