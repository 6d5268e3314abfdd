package state

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

// A lock lives for lockTTL unless it is renewed, which its holder does all the
// while: a holder that dies blocks the others no longer than that.
const (
	lockTTL   = 60 * time.Second
	lockRenew = 20 * time.Second
	lockPoll  = 100 * time.Millisecond
)

// lock is one that this process holds.
type lock struct {
	token string
	stop  context.CancelFunc
	ended chan struct{} // closed when its renewal has ended
}

var (
	// Takes a free lock and renews an own one, so that it may be repeated.
	lockScript = redis.NewScript(`
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`)
	unlockScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0`)
)

// Lock implements certmagic.Locker.
func (c *certificates) Lock(ctx context.Context, name string) error {
	for {
		ok, err := c.TryLock(ctx, name)
		if ok || err != nil {
			return err
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// TryLock implements certmagic.TryLocker.
func (c *certificates) TryLock(ctx context.Context, name string) (bool, error) {
	if err := c.s.life.Err(); err != nil {
		return false, c.s.fail(ctx, "locking "+name, redis.ErrClosed)
	}
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	l := &lock{token: newIdentity(), ended: make(chan struct{})}
	got, err := lockScript.Run(cctx, c.s.client, []string{c.s.keys.certLock(name)}, l.token, lockTTL.Milliseconds()).Int()
	if err != nil || got == 0 {
		return false, c.s.fail(cctx, "locking "+name, err)
	}
	var renewing context.Context
	renewing, l.stop = context.WithCancel(c.s.life) // not ctx: the lock outlives the call
	c.mu.Lock()
	if lost := c.held[name]; lost != nil {
		lost.stop() // it ran out while Redis was away
	}
	c.held[name] = l
	c.mu.Unlock()
	c.s.locks.Go(func() {
		defer close(l.ended)
		c.renew(renewing, name, l.token)
	})
	return true, nil
}

// renew keeps a lock until ctx ends or somebody else has it.
func (c *certificates) renew(ctx context.Context, name, token string) {
	tick := time.NewTicker(lockRenew)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		got, err := lockScript.Run(cctx, c.s.client, []string{c.s.keys.certLock(name)}, token, lockTTL.Milliseconds()).Int()
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			c.s.log.Warn("a certificate lock could not be renewed; trying again", "lock", name, "err", err)
		case got == 0:
			c.s.log.Warn("a certificate lock was lost to another gateway", "lock", name)
			return
		}
	}
}

// Unlock implements certmagic.Locker. Unlocking what was lost meanwhile is no
// error: it is not locked by this process any more.
func (c *certificates) Unlock(ctx context.Context, name string) error {
	c.mu.Lock()
	l := c.held[name]
	delete(c.held, name)
	c.mu.Unlock()
	if l == nil {
		return router.Errorf(router.CodeConflict, "the certificate lock %s is not held by this gateway", name)
	}
	l.stop()
	<-l.ended // or it might take the lock again after it is gone
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := unlockScript.Run(ctx, c.s.client, []string{c.s.keys.certLock(name)}, l.token).Err()
	return c.s.fail(ctx, "unlocking "+name, err)
}
