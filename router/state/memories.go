package state

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

// memoryTTL is how long what was learned of an app outlives its last change.
const memoryTTL = 40 * 24 * time.Hour

// Recall reads what Keep stored of apps, in one round trip; those of which
// nothing is stored are left out.
func (s *Store) Recall(ctx context.Context, apps []string) (map[string][]byte, error) {
	if len(apps) == 0 {
		return map[string][]byte{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	replies := make([]*redis.StringCmd, len(apps))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, app := range apps {
			replies[i] = p.Get(ctx, s.keys.memory(app))
		}
		return nil
	})
	if err != nil && err != redis.Nil { //nolint:errorlint // the library returns it as it is
		return nil, s.fail(ctx, "reading what was learned of apps", err)
	}
	kept := make(map[string][]byte, len(apps))
	for i, reply := range replies {
		if raw, err := reply.Bytes(); err == nil {
			kept[apps[i]] = raw
		}
	}
	return kept, nil
}

// Keep stores what was learned of apps, and when each has to be looked at
// although nobody asks for it, in one round trip. It replaces what was stored.
func (s *Store) Keep(ctx context.Context, learned map[string]router.Learned) error {
	if len(learned) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		var due []redis.Z
		var never []any
		for app, l := range learned {
			p.Set(ctx, s.keys.memory(app), l.Memory, memoryTTL)
			if l.Next.IsZero() {
				never = append(never, app)
			} else {
				due = append(due, redis.Z{Score: float64(l.Next.Unix()), Member: app})
			}
		}
		if len(due) > 0 {
			p.ZAdd(ctx, s.keys.due(), due...)
		}
		if len(never) > 0 {
			p.ZRem(ctx, s.keys.due(), never...)
		}
		return nil
	})
	return s.fail(ctx, "storing what was learned of apps", err)
}

// dueAgain is after how long an app is due again that was told and of which
// nothing was kept since: whoever was told may have died.
const dueAgain = 10 * time.Minute

// Due are apps, at most so many, that had to be looked at by then. They are told
// once, and once more later if no Keep says when they are due next.
func (s *Store) Due(ctx context.Context, until time.Time, most int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	apps, err := s.client.ZRangeArgs(ctx, redis.ZRangeArgs{
		Key: s.keys.due(), ByScore: true, Start: "-inf", Stop: strconv.FormatInt(until.Unix(), 10), Count: int64(most),
	}).Result()
	if err != nil || len(apps) == 0 {
		return nil, s.fail(ctx, "reading which apps are due", err)
	}
	later := make([]redis.Z, len(apps))
	for i, app := range apps {
		later[i] = redis.Z{Score: float64(until.Add(dueAgain).Unix()), Member: app}
	}
	err = s.client.ZAddXX(ctx, s.keys.due(), later...).Err()
	return apps, s.fail(ctx, "noting which apps were due", err)
}
