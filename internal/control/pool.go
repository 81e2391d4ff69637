package control

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/smolvm/smolvm/api"
)

// PoolKey names the pool whose members fit a spec. Empty: no pool has such.
func PoolKey(s api.Spec) string {
	s = s.WithDefaults()
	if s.NoTemplate || s.FromSnapshot != "" {
		return ""
	}
	// What is not here is given to a member when it is taken.
	b, _ := json.Marshal([]any{s.Image, s.CPUs, s.MemoryMiB, s.DiskMiB, s.Accel})
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// Routes of the keeper's socket.
const (
	RoutePools      = "GET /v1/pools"        // -> []api.Pool
	RouteSetPool    = "POST /v1/pools"       // api.Pool -> api.Pool
	RouteDrainPools = "POST /v1/pools/drain" // Drain -> []api.Pool
)

// Drain is the body of RouteDrainPools.
type Drain struct {
	Image string `json:"image"` // empty: all pools
}
