// Package agentbin holds the guest agent that is built into smolvm.
//
//	b, err := agentbin.Bytes()
//
// The Makefile builds cmd/smolvm-agent into bin/ before it builds smolvm. A
// checkout without it compiles too; the agent is then missing at run time.
package agentbin

import (
	"crypto/sha256"
	"embed"
	"io"
	"io/fs"
	"os"

	"github.com/smolvm/smolvm/api"
)

// EnvAgent is the environment variable that names an agent to use instead of
// the built-in one, for work on the agent itself.
const EnvAgent = "SMOLVM_AGENT"

// maxAgent bounds the file that EnvAgent names, in bytes: far above any build,
// so that a wrong path cannot eat memory.
const maxAgent = 64 << 20

// bin holds a note besides the agent, so that the pattern matches in a checkout
// where nothing was built yet.
//
//go:embed bin
var bin embed.FS

// Bytes returns the agent's program, for the architecture that smolvm itself was
// built for. Class Unavailable where it was not built, and where $SMOLVM_AGENT
// names a file that cannot be read.
func Bytes() ([]byte, error) {
	if path := os.Getenv(EnvAgent); path != "" {
		return fromFile(path)
	}
	b, err := fs.ReadFile(bin, builtIn)
	if err != nil {
		return nil, missing()
	}
	return b, nil
}

// builtIn is the agent's place in bin.
const builtIn = "bin/smolvm-agent"

func missing() error {
	return api.Errorf(api.Unavailable, "find guest agent: it was not built into this smolvm").
		WithCode("missing_dependency").
		WithRecovery("Build with: make build")
}

// Digest returns the SHA-256 of what Bytes returns. Every create asks for it, and
// reading the agent where it lies takes a fraction of what a copy of it takes.
func Digest() (sum [sha256.Size]byte, err error) {
	if os.Getenv(EnvAgent) != "" {
		b, err := Bytes()
		return sha256.Sum256(b), err
	}
	f, err := bin.Open(builtIn)
	if err != nil {
		return sum, missing()
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, api.Errorf(api.Internal, "read guest agent: %w", err)
	}
	h.Sum(sum[:0])
	return sum, nil
}

func fromFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, api.Errorf(api.Unavailable, "read guest agent: %w", err).
			WithRecovery("Set %s to a built agent, or unset it.", EnvAgent)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAgent+1))
	if err != nil {
		return nil, api.Errorf(api.Unavailable, "read guest agent: %w", err)
	}
	if len(b) > maxAgent {
		return nil, api.Errorf(api.Invalid, "read guest agent: %s is larger than %d bytes", path, maxAgent).
			WithRecovery("Set %s to a built agent, or unset it.", EnvAgent)
	}
	return b, nil
}
