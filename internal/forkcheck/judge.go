package forkcheck

import (
	"fmt"
	"slices"
	"time"
)

// clockSlack is how wrong a clock may be. It is set to the millisecond, but a busy
// host takes its time, and so does an emulated guest.
const clockSlack = time.Second

// unique are the properties that no two sandboxes may share.
var unique = []secret{
	{name: "random bytes", key: "random"},
	{name: "random uuid", key: "uuid"},
	{name: "machine id", key: "machine-id", absent: "the image has no /etc/machine-id"},
	{name: "boot id", key: "boot-id"},
	{name: "host name", key: "hostname"},
	{name: "ssh host keys", key: "ssh-key", absent: "the image has no room for them", loses: true},
}

// secret is one of the properties that no two sandboxes may share.
type secret struct {
	name, key string
	absent    string // why none may have it; empty: all must
	loses     bool   // a child may have none, where its image cannot make one
}

// judge says what follows from what the source said before its fork, and what it
// and its children said afterwards.
func judge(before facts, after []facts) Report {
	r := Report{OK: true, Sandboxes: []string{}}
	for _, f := range after {
		r.Sandboxes = append(r.Sandboxes, f.name)
	}
	for _, u := range unique {
		r.add(u.judge(after))
	}
	r.add(clocks(after))
	r.add(goesOn(before, after[1:]))
	r.add(leftAlone(before, after[0]))
	return r
}

func (r *Report) add(p Property) {
	r.Properties = append(r.Properties, p)
	r.OK = r.OK && p.OK
}

// judge wants a value of each sandbox that no other has.
func (u secret) judge(all []facts) Property {
	p := Property{Name: u.name}
	times, most, missing := map[string]int{}, 0, 0
	for _, f := range all {
		v := f.said[u.key]
		p.Values = append(p.Values, v)
		if v == "" {
			missing++
			continue
		}
		times[v]++
		most = max(most, times[v])
	}
	switch {
	case missing == len(all) && u.absent != "":
		p.OK, p.Detail, p.Values = true, u.absent, nil
	case most > 1:
		p.Detail = fmt.Sprintf("%d of %d share one", most, len(all))
	case missing > 0 && u.loses && p.Values[0] != "":
		p.OK, p.Detail = true, fmt.Sprintf("the source's alone: %d of %d have none", missing, len(all))
	case missing > 0:
		p.Detail = fmt.Sprintf("%d of %d have none", missing, len(all))
	default:
		p.OK, p.Detail = true, fmt.Sprintf("%d, no two equal", len(all))
	}
	return p
}

func clocks(all []facts) Property {
	p := Property{Name: "clocks", OK: true}
	worst := time.Duration(0)
	for _, f := range all {
		p.Values = append(p.Values, f.behind.String())
		worst = max(worst, f.behind.Abs())
	}
	p.OK = worst <= clockSlack
	p.Detail = fmt.Sprintf("at most %v off this machine's", worst.Round(time.Millisecond))
	return p
}

// goesOn wants the count of the source to go on in its children: they were copied,
// not booted.
func goesOn(before facts, children []facts) Property {
	p := Property{Name: "processes go on", OK: true, Detail: "a count in the source goes on in each child"}
	p.Values = []string{fmt.Sprint(before.number("later"))}
	for _, f := range children {
		at, later := f.number("count"), f.number("later")
		p.Values = append(p.Values, fmt.Sprint(at))
		if at < before.number("later") || later <= at {
			p.OK, p.Detail = false, fmt.Sprintf("the source counted %d; a child says %d and then %d", before.number("later"), at, later)
		}
	}
	return p
}

// leftAlone wants the source to be who it was.
func leftAlone(before, after facts) Property {
	p := Property{Name: "source left alone", OK: true, Detail: "it keeps its names and keys, and runs on"}
	for _, key := range []string{"machine-id", "boot-id", "hostname", "ssh-key"} {
		if before.said[key] != after.said[key] {
			p.OK, p.Detail = false, fmt.Sprintf("its %s was %.80q and is %.80q", key, before.said[key], after.said[key])
		}
	}
	counts := []int{before.number("count"), before.number("later"), after.number("count"), after.number("later")}
	if counts[0] < 0 || !slices.IsSorted(counts) || counts[2] == counts[3] {
		p.OK, p.Detail = false, fmt.Sprintf("it counted %v", counts)
	}
	return p
}
