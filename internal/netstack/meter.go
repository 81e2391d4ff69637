package netstack

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/smolvm/smolvm/api"
)

// meter counts what passes between guest and world, the payload of all flows, and
// slows it down to Limits.RateBytes.
type meter struct {
	up, down *bucket // from and to the guest; nil: no bound
	quota    int64   // 0: none
	used     atomic.Int64
	over     func() // called when the quota is used up, perhaps more than once
}

func (m *meter) init(cfg Config, over func()) {
	m.quota, m.over = cfg.Limits.QuotaBytes, over
	if r := cfg.Limits.RateBytes; r > 0 {
		m.up, m.down = newBucket(r), newBucket(r)
	}
	_ = m.spend(int(cfg.Used)) // it is asked again
}

// spend counts n bytes that have passed. An error says that no more may.
func (m *meter) spend(n int) error {
	m.used.Add(int64(n))
	if !m.isOver() {
		return nil
	}
	m.over()
	return m.overError()
}

// pass waits until n bytes may pass by b and counts them.
func (m *meter) pass(ctx context.Context, b *bucket, n int) error {
	if err := b.take(ctx, n); err != nil {
		return err
	}
	return m.spend(n)
}

func (m *meter) isOver() bool { return m.quota > 0 && m.used.Load() >= m.quota }

// overError is why flows end and are denied once the quota is used up.
func (m *meter) overError() error {
	return api.Errorf(api.Exhausted, "the network's quota of %d bytes is used up", m.quota)
}

// bucket gives out a number of bytes a second, in the order in which it is asked.
// A nil one gives without bound.
type bucket struct {
	rate, burst float64
	turn        slots // for one: who holds it waits for bytes, the others for it

	level float64 // bytes that are there; of the holder of turn
	at    time.Time
}

// The bytes that may come at once after silence are those of a tenth of a second,
// and at least a large frame: less would hold up small answers.
const (
	burstTime = 0.1
	minBurst  = 16 << 10
)

func newBucket(rate int) *bucket {
	burst := max(float64(rate)*burstTime, minBurst)
	return &bucket{rate: float64(rate), burst: burst, turn: make(slots, 1), level: burst, at: time.Now()}
}

// piece returns how much of n bytes to ask for at once, so that others have a turn.
func (b *bucket) piece(n int) int {
	if b == nil {
		return n
	}
	return min(n, minBurst)
}

// take waits for n bytes; of more than a piece the rest is taken in advance.
func (b *bucket) take(ctx context.Context, n int) error {
	if b == nil || n == 0 {
		return nil
	}
	if err := b.turn.get(ctx); err != nil {
		return err
	}
	defer b.turn.release()
	need := float64(b.piece(n))
	for {
		now := time.Now()
		b.level = min(b.burst, b.level+now.Sub(b.at).Seconds()*b.rate)
		b.at = now
		if b.level >= need {
			b.level -= float64(n)
			return nil
		}
		wait := time.Duration((need - b.level) / b.rate * float64(time.Second))
		if !sleep(ctx, wait+time.Microsecond) { // rounded up, or it would be asked again for nothing
			return context.Cause(ctx)
		}
	}
}

// sleep reports whether d has passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
