package state

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

const (
	rateTTL    = 3 * time.Minute
	maxSeconds = int64(rateTTL / time.Second)
)

// FlushRates stores what a gateway counted in one second, and that the apps in
// samples were active in it. The same gateway and second again replaces what
// was stored, so it may be repeated.
func (s *Store) FlushRates(ctx context.Context, gateway string, second time.Time, samples map[string]router.Sample) error {
	if len(samples) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	unix := second.Unix()
	counts := make([]string, 0, 2*len(samples))
	active := make([]redis.Z, 0, len(samples))
	for app, n := range samples {
		counts = append(counts, gateway+"|"+app, fmt.Sprintf("%d,%d,%d", n.Requests, n.InFlight, n.Queued))
		active = append(active, redis.Z{Score: float64(unix), Member: app})
	}
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.HSet(ctx, s.keys.rates(unix), counts)
		p.Expire(ctx, s.keys.rates(unix), rateTTL)
		p.ZAddArgs(ctx, s.keys.active(), redis.ZAddArgs{GT: true, Members: active})
		return nil
	})
	return s.fail(ctx, "storing the request rates", err)
}

// Rates is what all gateways counted, summed: by second (Unix time) and app,
// for every second from from's to to's, both included. Seconds and apps without
// requests are absent; so is what is older than three minutes. The cost is in
// proportion to the apps that were active.
func (s *Store) Rates(ctx context.Context, from, to time.Time) (map[int64]map[string]router.Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	sums := map[int64]map[string]router.Sample{}
	first, last := max(from.Unix(), to.Unix()-maxSeconds), to.Unix()
	if last < first {
		return sums, nil
	}
	replies := make([]*redis.MapStringStringCmd, 0, last-first+1)
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for second := first; second <= last; second++ {
			replies = append(replies, p.HGetAll(ctx, s.keys.rates(second)))
		}
		return nil
	})
	if err != nil {
		return nil, s.fail(ctx, "reading the request rates", err)
	}
	for i, reply := range replies {
		if len(reply.Val()) == 0 {
			continue
		}
		apps := make(map[string]router.Sample, len(reply.Val()))
		for field, counts := range reply.Val() {
			n, ok := parseSample(counts)
			bar := strings.LastIndexByte(field, '|')
			if !ok || bar < 0 {
				s.log.Warn("a stored request rate cannot be read", "field", field)
				continue
			}
			sum := apps[field[bar+1:]]
			sum.Requests += n.Requests
			sum.InFlight += n.InFlight
			sum.Queued += n.Queued
			apps[field[bar+1:]] = sum
		}
		sums[first+int64(i)] = apps
	}
	return sums, nil
}

// parseSample reads "requests,in flight,queued". It is called for every active
// app, gateway and second.
func parseSample(counts string) (n router.Sample, ok bool) {
	first, rest, ok1 := strings.Cut(counts, ",")
	second, third, ok2 := strings.Cut(rest, ",")
	var err1, err2, err3 error
	n.Requests, err1 = strconv.ParseInt(first, 10, 64)
	n.InFlight, err2 = strconv.ParseInt(second, 10, 64)
	n.Queued, err3 = strconv.ParseInt(third, 10, 64)
	return n, ok1 && ok2 && err1 == nil && err2 == nil && err3 == nil
}

// LastActive is the last second in which each app was active; apps that never
// were are absent.
func (s *Store) LastActive(ctx context.Context, apps []string) (map[string]time.Time, error) {
	if len(apps) == 0 {
		return map[string]time.Time{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	scores, err := s.client.ZMScore(ctx, s.keys.active(), apps...).Result()
	if err != nil {
		return nil, s.fail(ctx, "reading when apps were last active", err)
	}
	last := make(map[string]time.Time, len(apps))
	for i, score := range scores {
		if score > 0 {
			last[apps[i]] = time.Unix(int64(score), 0)
		}
	}
	return last, nil
}
