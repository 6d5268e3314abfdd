package state

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// Which gateways live is decided by Redis's clock alone, so that the clocks
// of the gateways do not matter.
var (
	announceScript = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return 1`)
	gatewaysScript = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf')`)
)

// Announce says that a gateway lives, for ttl from now.
func (s *Store) Announce(ctx context.Context, gateway string, ttl time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := announceScript.Run(ctx, s.client, []string{s.keys.gateways()}, gateway, ttl.Milliseconds()).Err()
	return s.fail(ctx, "announcing this gateway", err)
}

// Retire takes back what Announce said.
func (s *Store) Retire(ctx context.Context, gateway string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.fail(ctx, "retiring this gateway", s.client.ZRem(ctx, s.keys.gateways(), gateway).Err())
}

// Gateways are those that live.
func (s *Store) Gateways(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	live, err := gatewaysScript.Run(ctx, s.client, []string{s.keys.gateways()}).StringSlice()
	return live, s.fail(ctx, "listing the gateways", err)
}

// ackTTL is how long acknowledgements are kept that nobody clears.
const ackTTL = time.Hour

// AckDrain says that a gateway sends an instance nothing more and that its last
// request to it has ended.
func (s *Store) AckDrain(ctx context.Context, gateway, instance string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.SAdd(ctx, s.keys.drain(instance), gateway)
		p.Expire(ctx, s.keys.drain(instance), ackTTL)
		return nil
	})
	return s.fail(ctx, "acknowledging the drain of "+instance, err)
}

// DrainAcks are the gateways that acknowledged, in no order.
func (s *Store) DrainAcks(ctx context.Context, instance string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	acks, err := s.client.SMembers(ctx, s.keys.drain(instance)).Result()
	return acks, s.fail(ctx, "reading who acknowledged the drain of "+instance, err)
}

// ClearAcks forgets the acknowledgements, before another drain.
func (s *Store) ClearAcks(ctx context.Context, instance string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.fail(ctx, "forgetting who acknowledged the drain of "+instance, s.client.Del(ctx, s.keys.drain(instance)).Err())
}
