package smolvm_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/smolvm/smolvm/internal/testenv"
)

// TestMain gives the examples, which use the default client, a program and a
// state directory of their own.
func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	flag.Parse()
	if testing.Short() {
		return m.Run() // nothing that boots is wanted
	}
	binary, err := testenv.Build()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	home, remove, err := testenv.NewHome()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer remove()
	os.Setenv("SMOLVM_BIN", binary)
	os.Setenv("SMOLVM_HOME", home)
	return m.Run()
}
