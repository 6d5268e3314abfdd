package state

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Lease is the right of one holder to a role, for a time.
type Lease struct {
	Name   string
	Holder string
	Fence  uint64    // rises whenever the holder changes: what an older holder still sends can be told by it
	Until  time.Time // by this machine's clock, on the safe side of Redis's
}

// The fence must outlive the lease, so the hash has no expiry of its own.
var (
	acquireScript = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'holder', 'fence', 'until')
local holder, fence, ends = held[1], tonumber(held[2] or '0'), tonumber(held[3] or '0')
if holder ~= ARGV[1] then
  if holder and ends > now then
    return {0, holder, fence, ends - now}
  end
  fence = fence + 1
end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'fence', fence, 'until', string.format('%.0f', now + ARGV[2]))
return {1, ARGV[1], fence, tonumber(ARGV[2])}`)
	releaseScript = redis.NewScript(`
local held = redis.call('HMGET', KEYS[1], 'holder', 'fence')
if held[1] == ARGV[1] and held[2] == ARGV[2] then
  redis.call('HSET', KEYS[1], 'until', 0)
end
return 1`)
)

// Acquire takes or renews a lease, and reports whether holder has it now. The
// Lease is the present one, somebody else's where it has not.
func (s *Store) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (Lease, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	asked := time.Now() // before Redis counts: the lease ends here no later than there
	reply, err := acquireScript.Run(ctx, s.client, []string{s.keys.lease(name)}, holder, ttl.Milliseconds()).Slice()
	if err != nil {
		return Lease{}, false, s.fail(ctx, "acquiring the lease "+name, err)
	}
	if len(reply) == 4 {
		mine, ok1 := reply[0].(int64)
		who, ok2 := reply[1].(string)
		fence, ok3 := reply[2].(int64)
		left, ok4 := reply[3].(int64)
		if ok1 && ok2 && ok3 && ok4 {
			return Lease{name, who, uint64(fence), asked.Add(time.Duration(left) * time.Millisecond)}, mine == 1, nil
		}
	}
	return Lease{}, false, s.fail(ctx, "acquiring the lease "+name, fmt.Errorf("an answer in no known form"))
}

// Release gives a lease back before its time. Releasing one that somebody else
// has by now does nothing.
func (s *Store) Release(ctx context.Context, l Lease) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := releaseScript.Run(ctx, s.client, []string{s.keys.lease(l.Name)}, l.Holder, l.Fence).Err()
	return s.fail(ctx, "releasing the lease "+l.Name, err)
}
