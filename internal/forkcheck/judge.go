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
var unique = []struct {
	name, key string
	optional  string // why it may be missing everywhere; empty: it may not
}{
	{"random bytes", "random", ""},
	{"random uuid", "uuid", ""},
	{"machine id", "machine-id", "the image has no /etc/machine-id"},
	{"boot id", "boot-id", ""},
	{"host name", "hostname", ""},
	{"ssh host keys", "ssh-key", "the image has no SSH"},
}

// judge says what follows from what the source said before its fork, and what it
// and its children said afterwards.
func judge(before facts, after []facts) Report {
	r := Report{OK: true, Sandboxes: []string{}}
	for _, f := range after {
		r.Sandboxes = append(r.Sandboxes, f.name)
	}
	for _, u := range unique {
		r.add(distinct(u.name, u.key, u.optional, after))
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

// distinct wants a value of each sandbox that no other has.
func distinct(name, key, optional string, all []facts) Property {
	p := Property{Name: name}
	seen, missing := map[string]bool{}, 0
	for _, f := range all {
		v := f.said[key]
		p.Values = append(p.Values, v)
		if v == "" {
			missing++
		}
		seen[v] = true
	}
	switch {
	case missing == len(all) && optional != "":
		p.OK, p.Detail, p.Values = true, optional, nil
	case missing > 0:
		p.Detail = fmt.Sprintf("%d of %d have none", missing, len(all))
	case len(seen) < len(all):
		p.Detail = fmt.Sprintf("%d of %d are the same as another's", len(all)-len(seen), len(all))
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
