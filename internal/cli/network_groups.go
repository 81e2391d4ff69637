package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
)

// groupData is a group of names as programs see it.
type groupData struct {
	Name    string          `json:"name"`
	About   string          `json:"about"`
	Risk    string          `json:"risk,omitempty"` // what one can still do with it
	Source  string          `json:"source"`
	Entries []groupDataHost `json:"entries"`
}

type groupDataHost struct {
	Domains []string `json:"domains"`
	Ports   []string `json:"ports"`
}

type groupsData struct {
	Groups []groupData `json:"groups"`
}

func newGroupData(g egress.Group) groupData {
	d := groupData{Name: g.Name, About: g.About, Risk: g.Risk, Source: g.Source}
	for _, e := range g.Entries {
		h := groupDataHost{e.Domains, e.Ports}
		if len(h.Ports) == 0 {
			h.Ports = []string{"443"}
		}
		d.Entries = append(d.Entries, h)
	}
	return d
}

func (a *app) newNetworkGroups() *cobra.Command {
	return &cobra.Command{
		Use:   "groups [GROUP]",
		Short: "List the groups of names that policies may use",
		Long: `List the groups that come with smolvm: the names and ports that one service needs,
for groups: in a policy. With the name of a group, show what is in it, where the
service says so, and what an allowed sandbox could still do with it.`,
		Example: `  smolvm network groups
  smolvm network groups github`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeWith(func(context.Context) ([]string, error) { return egress.GroupNames(), nil }, 1),
		RunE: a.do(func(_ context.Context, args []string) (outcome, error) {
			if len(args) == 1 {
				return oneGroup(args[0])
			}
			d := groupsData{}
			for _, name := range egress.GroupNames() {
				g, _ := egress.GroupByName(name)
				d.Groups = append(d.Groups, newGroupData(g))
			}
			return outcome{data: d, text: d.print}, nil
		}),
	}
}

func oneGroup(name string) (outcome, error) {
	g, ok := egress.GroupByName(name)
	if !ok {
		return outcome{}, api.Errorf(api.NotFound, "group %.80q is not known", name).
			WithRecovery("List the groups with: smolvm network groups")
	}
	d := newGroupData(g)
	return outcome{data: groupsData{[]groupData{d}}, text: d.print}, nil
}

func (d groupsData) print(w io.Writer) {
	var rows [][]string
	for _, g := range d.Groups {
		rows = append(rows, []string{g.Name, g.About})
	}
	table(w, "GROUP\tABOUT", rows)
}

func (d groupData) print(w io.Writer) {
	printFields(w, [][]string{{"group", d.Name}, {"about", d.About}, {"risk", d.Risk}, {"source", d.Source}})
	fmt.Fprintln(w)
	var rows [][]string
	for _, e := range d.Entries {
		for _, name := range e.Domains {
			rows = append(rows, []string{name, strings.Join(e.Ports, ",")})
		}
	}
	table(w, "NAME\tPORTS", rows)
}
