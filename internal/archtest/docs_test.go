package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// rowRE finds the rows of the map in docs/architecture.md.
var rowRE = regexp.MustCompile("(?m)^\\| `([^`]+)/` \\|")

// TestMap wants the map of the architecture to show every package, and no other.
func TestMap(t *testing.T) {
	text, err := os.ReadFile(root + "/docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	var shown []string
	for _, row := range rowRE.FindAllStringSubmatch(string(text), -1) {
		shown = append(shown, row[1])
		if fi, err := os.Stat(filepath.Join(root, row[1])); err != nil || !fi.IsDir() {
			t.Errorf("the map in docs/architecture.md shows %s/, which is not there", row[1])
		}
	}
	for _, p := range ours(t) {
		if p.rel() != "." && !slices.ContainsFunc(shown, func(dir string) bool { return below(p.rel(), dir+"/...") }) {
			t.Errorf("the map in docs/architecture.md does not show %s", p.rel())
		}
	}
}

// linkRE finds links of Markdown to files, with their anchors.
var linkRE = regexp.MustCompile(`\]\(([^):#]*)(#[^)]*)?\)`)

// TestLinks wants what our pages link to to be there.
func TestLinks(t *testing.T) {
	pages := []string{root + "/README.md"}
	err := filepath.WalkDir(root+"/docs", func(path string, _ os.DirEntry, err error) error {
		if strings.HasSuffix(path, ".md") {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil || len(pages) < 2 {
		t.Fatalf("found %d pages: %v", len(pages), err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range linkRE.FindAllStringSubmatch(string(text), -1) {
			checkLink(t, page, link[1], strings.TrimPrefix(link[2], "#"))
		}
	}
}

func checkLink(t *testing.T, page, file, anchor string) {
	target := page
	if file != "" {
		target = filepath.Join(filepath.Dir(page), file)
	}
	if _, err := os.Stat(target); err != nil {
		t.Errorf("%s links to %s: %v", page, file, err)
		return
	}
	if anchor == "" {
		return
	}
	text, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " ")
		if ok && strings.HasPrefix(line, "#") && anchorOf(title) == anchor {
			return
		}
	}
	t.Errorf("%s links to %s#%s, which is no heading there", page, file, anchor)
}

var notAnchor = regexp.MustCompile(`[^a-z0-9 _-]`)

// anchorOf is the anchor of a heading, as the usual viewers make it.
func anchorOf(title string) string {
	return strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), ""), " ", "-")
}
