package manager_test

import (
	"flag"
	"os"
	"testing"

	"github.com/smolvm/smolvm/internal/testenv/fakehost"
)

func TestMain(m *testing.M) {
	if code, ok := fakehost.Main(); ok {
		os.Exit(code)
	}
	if os.Getenv(envClient) != "" {
		os.Exit(clientMain())
	}
	flag.Parse()
	// Most of their time laws wait for each other's processes.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

const (
	faultsFile = fakehost.FaultsFile
	bootsFile  = fakehost.BootsFile
)
