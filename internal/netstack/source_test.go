package netstack

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestOnePlaceDials reads the package: whatever opens a socket stands in the one
// function that is known for it.
func TestOnePlaceDials(t *testing.T) {
	known := map[string]string{
		"flow.go: dialOne":      ".DialContext(",     // behind dial, which wants a Decision
		"upstream.go: exchange": ".ExchangeContext(", // of names that were allowed
		"echo.go: openPing":     "icmp.ListenPacket(",
	}
	opens := regexp.MustCompile(`\bnet\.(Dial|Listen|Resolver|Lookup)\w*|\.DialContext\(|\.ExchangeContext\(|\.Exchange\(m, |icmp\.ListenPacket\(|syscall\.Socket`)
	function := regexp.MustCompile(`^func (?:\([^)]*\) )?(\w+)`)
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), "_test.go") || !strings.HasSuffix(f.Name(), ".go") {
			continue
		}
		text, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		in := ""
		for line := range strings.Lines(string(text)) {
			code, _, _ := strings.Cut(line, "//")
			if m := function.FindStringSubmatch(code); m != nil {
				in = f.Name() + ": " + m[1]
			}
			for _, call := range opens.FindAllString(code, -1) {
				if want, ok := known[in]; ok && strings.Contains(want, call) {
					found[in] = true
				} else if call != "net.Dialer" {
					t.Errorf("%s: %s", in, strings.TrimSpace(line))
				}
			}
		}
	}
	if len(found) != len(known) {
		t.Errorf("found only %v", found)
	}
}
