package state

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

// retryAfter is when it is worth asking again while Redis is away.
const retryAfter = time.Second

// refusals are the answers by which Redis says that it cannot serve now, and
// what an operator does about each.
var refusals = []struct{ prefix, remedy string }{
	{"NOAUTH", "wants a password: give one in the URL, as in redis://user:password@host:6379"},
	{"WRONGPASS", "refuses the user or password in the URL: correct it"},
	{"NOPERM", "does not let this user do what is needed: allow it all commands on keys that start with the prefix"},
	{"MISCONF", "cannot write to its disk: free or repair it, its log has the details"},
	{"OOM", "is out of memory: raise its maxmemory"},
	{"READONLY", "is a read-only replica: name the primary"},
	{"LOADING", "is still loading its data"},
	{"MASTERDOWN", "has lost its primary"},
	{"CLUSTERDOWN", "is a cluster that is down"},
	{"TRYAGAIN", "is a cluster that is moving this slot"},
	{"BUSY", "is busy with a script"},
}

// fail gives err, which came from Redis while doing what, a meaning. What the
// caller itself cancelled stays a context error.
func (s *Store) fail(ctx context.Context, what string, err error) error {
	var known *router.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return err
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.Is(err, redis.ErrClosed):
		return router.Errorf(router.CodeUnavailable, "%s: the connection to Redis was closed because this gateway stops: %w", what, err)
	}
	var reply redis.Error
	if errors.As(err, &reply) {
		for _, r := range refusals {
			if strings.HasPrefix(reply.Error(), r.prefix) {
				return s.unavailable("%s: Redis at %s %s: %w", what, s.label, r.remedy, err)
			}
		}
		return router.Errorf(router.CodeInternal, "%s: Redis at %s refused: %w", what, s.label, err)
	}
	return s.unavailable("%s: Redis at %s does not answer: %w", what, s.label, err)
}

func (s *Store) unavailable(format string, args ...any) error {
	e := router.Errorf(router.CodeUnavailable, format, args...)
	e.RetryAfter = retryAfter
	return e
}
