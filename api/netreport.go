package api

// NetworkFlaw is the kind of a NetworkProblem.
type NetworkFlaw string

// What can be wrong with a network's record.
const (
	FlawHead    NetworkFlaw = "head"    // the file head is missing or altered: a cut end would not show
	FlawChanged NetworkFlaw = "changed" // an entry is not what was written
	FlawMissing NetworkFlaw = "missing" // entries were taken out
	FlawMoved   NetworkFlaw = "moved"   // an entry is not in its place, or twice
	FlawCut     NetworkFlaw = "cut"     // entries at the beginning or at the end are gone
	FlawAdded   NetworkFlaw = "added"   // there are lines that were not written by smolvm
	FlawBroken  NetworkFlaw = "broken"  // the record was not whole when its sandbox started; the entry says so
)

// NetworkProblem is something wrong with a network's record.
type NetworkProblem struct {
	Flaw NetworkFlaw `json:"flaw"`
	From uint64      `json:"from,omitempty"` // number of the first entry it is about
	To   uint64      `json:"to,omitempty"`   // of the last
	File string      `json:"file,omitempty"` // where it shows
	Line int         `json:"line,omitempty"`
	Text string      `json:"text"` // for people
}

// NetworkReport says whether a network's record is as it was written.
type NetworkReport struct {
	Entries  uint64           `json:"entries"`
	First    uint64           `json:"first"` // number of the first that is kept; those before it were rotated away
	Last     uint64           `json:"last"`
	Head     string           `json:"head"` // hash of the last entry: note it elsewhere, and nobody can replace the whole record
	Problems []NetworkProblem `json:"problems,omitempty"`
	More     int              `json:"more,omitempty"` // problems beyond those that are listed
}
