package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"

	"github.com/smolvm/smolvm/internal/store"
)

// lockKey waits for the lock of a piece of work, so that those who want the same
// do it once. It gives up with the context.
func (im *Images) lockKey(ctx context.Context, key string) (*store.Lock, error) {
	sum := sha256.Sum256([]byte(key))
	path := im.path(locksDir, hex.EncodeToString(sum[:])+".lock")
	type result struct {
		l   *store.Lock
		err error
	}
	got := make(chan result)
	go func() { // ends when the holder does; what it gets too late it gives back
		l, err := store.WaitLock(path)
		select {
		case got <- result{l, err}:
		case <-ctx.Done():
			if err == nil {
				l.Unlock()
			}
		}
	}()
	select {
	case r := <-got:
		return r.l, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// removeLock removes the file of a lock that nobody holds. A waiter that opened
// it just before does its work beside the next one: that costs time, nothing else.
func (im *Images) removeLock(name string) {
	path := im.path(locksDir, name)
	l, err := store.TryLock(path)
	if err != nil {
		return
	}
	defer l.Unlock()
	os.Remove(path)
}
