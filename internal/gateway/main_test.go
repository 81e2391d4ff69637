package gateway_test

import (
	"os"
	"testing"

	"github.com/smolvm/smolvm/internal/testenv/fakehost"
)

func TestMain(m *testing.M) {
	if code, ok := fakehost.Main(); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}
