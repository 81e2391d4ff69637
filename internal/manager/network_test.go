package manager_test

import (
	"testing"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

var networkLaws = []law{
	{"the original's settings become a policy, wherever they come in", func(l *life) {
		settings := &smolvm.InternetSettings{AllowedDomains: []string{"https://example.com/api"}, AllowedHTTPMethods: []string{"GET"}}
		is := func(n smolvm.Network, err error) {
			l.Helper()
			l.ok(err)
			if n.InternetSettings != nil || n.Policy == nil || n.Policy.Default != api.PolicyDeny || len(n.Policy.Rules) != 1 ||
				n.Policy.Rules[0].Methods[0] != "GET" || n.Policy.Rules[0].Paths[0] != "/api" {
				l.Fatalf("%+v", n)
			}
		}
		spec := smolvm.Spec{Network: smolvm.Network{InternetSettings: settings}}
		sb := l.create(spec)
		is(sb.Network(l.ctx))
		_, err := sb.SetNetwork(l.ctx, smolvm.NetworkChange{Mode: api.NetworkNone})
		l.ok(err)
		is(sb.SetNetwork(l.ctx, smolvm.NetworkChange{InternetSettings: settings}))
		l.pool(smolvm.Pool{Size: 1})
		is(l.claimed(spec).Network(l.ctx))
	}},
	{"what cannot be enforced is refused, and nothing changes", func(l *life) {
		bad := smolvm.Network{InternetSettings: &smolvm.InternetSettings{AllowedDomains: []string{"ftp://example.com"}}}
		_, err := l.Create(l.ctx, smolvm.Spec{Network: bad})
		l.fails(err, api.ErrInvalid, "ftp")
		_, err = l.Create(l.ctx, smolvm.Spec{Network: smolvm.Network{
			Policy: &smolvm.Policy{}, InternetSettings: &smolvm.InternetSettings{},
		}})
		l.fails(err, api.ErrInvalid, "exclude")
		l.alone()
		sb := l.create(smolvm.Spec{})
		_, err = sb.SetNetwork(l.ctx, smolvm.NetworkChange{InternetSettings: bad.InternetSettings})
		l.fails(err, api.ErrInvalid, "ftp")
		n, err := sb.Network(l.ctx)
		if err != nil || n.Policy != nil || n.InternetSettings != nil {
			l.Errorf("%+v, %v", n, err)
		}
	}},
}

func TestNetworkLaws(t *testing.T) { hold(t, networkLaws) }
