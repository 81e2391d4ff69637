package cli

import (
	"os"

	"github.com/smolvm/smolvm/api"
)

// A gateway is named by the environment: any command may be about its sandboxes.
const (
	envURL    = "SMOLVM_URL"     // as Client.BaseURL
	envAPIKey = "SMOLVM_API_KEY" // as Client.APIKey
)

// thisMachine refuses what is done to this machine where SMOLVM_URL says that another's
// sandboxes are meant.
func thisMachine(act string) error {
	url := os.Getenv(envURL)
	if url == "" {
		return nil
	}
	return api.Errorf(api.Invalid, "%s: it is done to this machine, and not through the gateway that %s names (%.200s)", act, envURL, url).
		WithCode("local_only").WithRecovery("Run it on the gateway's machine, or without %s.", envURL)
}
