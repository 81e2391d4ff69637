package agent_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/agent"
)

// TestContextsUnderLoad has many operations that are cut off at any moment: each
// must end with its context, and the session must outlive them all.
func TestContextsUnderLoad(t *testing.T) {
	c := serve(t, agent.Options{})
	var wg sync.WaitGroup
	const workers, rounds = 16, 25
	for range workers {
		wg.Go(func() {
			for range rounds {
				cutOff(t, c)
			}
		})
	}
	wg.Wait()
	if r, err := c.Run(testContext(t), guest.Exec{Argv: []string{"true"}}); err != nil || r.Code != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// late is how long after its context's end an operation may return on a busy machine.
const late = 5 * time.Second

func cutOff(t *testing.T, c guest.Client) {
	limit := rand.N(40 * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	began := time.Now()
	_, err := c.Run(ctx, sh([]string{"sleep 60", "yes", "true", "cat /dev/zero >&2"}[rand.IntN(4)]))
	if d := time.Since(began); d > limit+late {
		t.Errorf("ended %v after its context", d-limit)
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) && api.ClassOf(err) != api.Timeout {
		t.Errorf("%v", err)
	}
}
