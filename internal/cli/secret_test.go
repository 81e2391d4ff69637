package cli

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/api"
)

func TestSecretFlags(t *testing.T) {
	t.Setenv("API_KEY", "from env")
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("from file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		secrets, files []string
		want           []string // values
	}{
		{[]string{"API_KEY=a.example,*.b.example"}, nil, []string{"from env"}},
		{[]string{"API_KEY=a.example", "OTHER=b.example"}, []string{"OTHER=" + file}, []string{"from env", "from file"}},
		{[]string{"API_KEY=a.example"}, []string{"API_KEY=-"}, []string{"from stdin"}},
		{nil, nil, nil},
	} {
		f := secretFlags{test.secrets, test.files, strings.NewReader("from stdin\r\n")}
		list, err := f.parse()
		var got []string
		for _, s := range list {
			got = append(got, s.Value)
		}
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%q %q: %q, %v", test.secrets, test.files, got, err)
		}
	}
	for _, test := range []struct{ secrets, files []string }{
		{[]string{"API_KEY"}, nil},
		{[]string{"API_KEY="}, nil},
		{[]string{"NOT_SET_HERE=a.example"}, nil},
		{[]string{"API_KEY=a.example"}, []string{"API_KEY=/does/not/exist"}},
		{[]string{"API_KEY=a.example"}, []string{"API_KEY=/dev/null"}},
	} {
		f := secretFlags{test.secrets, test.files, nil}
		if _, err := f.parse(); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%q %q: %v", test.secrets, test.files, err)
		}
	}
	for _, files := range [][]string{{"API_KEY"}, {"API_KEY="}, {"OTHER=" + file}} {
		f := secretFlags{[]string{"API_KEY=a.example"}, files, nil}
		var usage *usageError
		if _, err := f.parse(); !errors.As(err, &usage) {
			t.Errorf("%q: %v", files, err)
		}
	}
	long := strings.NewReader(strings.Repeat("x", 1<<20))
	if _, err := secretValue("A", "-", long); err != nil || long.Len() < 1<<19 {
		t.Errorf("%v, %d bytes are left", err, long.Len())
	}
}
