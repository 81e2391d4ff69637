package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

func TestPendingIsPrinted(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	var b strings.Builder
	printPending(&b, []smolvm.PendingFlow{
		{ID: "a1", Proto: "dns", Host: "example.org", Rule: "new", Flows: 2, Expires: now.Add(59 * time.Second)},
		{ID: "a2", Proto: "tcp", Host: "example.org", Port: 443, Flows: 1, Expires: now.Add(-time.Second), PID: 12, Argv: []string{"curl", "-s", "\x1b[2Jx"}},
		{ID: "a3", Proto: "tcp", Host: "api.example.org", Port: 8443, Method: "POST", Path: "/v1", Rule: "writes", Flows: 1, Expires: now.Add(time.Minute)},
		{ID: "a4", Proto: "icmp", Host: "2001:db8::1", Flows: 1, Expires: now.Add(time.Minute)},
	}, now)
	want := `QUESTION  WANTED                        FLOWS  LEFT  RULE    PROCESS
a1        find example.org              2      59s   new     -
a2        tcp example.org:443           1      0s    -       curl -s \x1b[2Jx [12]
a3        POST api.example.org:8443/v1  1      1m0s  writes  -
a4        icmp 2001:db8::1              1      1m0s  -       -
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	for _, test := range []struct {
		e    smolvm.FlowEvent
		want string
	}{
		{smolvm.FlowEvent{Kind: api.FlowPending}, "pending"},
		{smolvm.FlowEvent{Kind: api.FlowAnswered, Allow: true}, "allowed"},
		{smolvm.FlowEvent{Kind: api.FlowAnswered}, "denied"},
		{smolvm.FlowEvent{Kind: api.FlowExpired}, "expired"},
	} {
		if got := flowWord(test.e); got != test.want {
			t.Errorf("%+v: %s", test.e, got)
		}
	}
}
