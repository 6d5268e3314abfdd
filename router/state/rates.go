package state

import (
	"context"
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
		counts = append(counts, gateway+"|"+app, encodeSample(n))
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
	sums := map[int64]map[string]router.Sample{}
	first, last := max(from.Unix(), to.Unix()-maxSeconds), to.Unix()
	err := s.eachRate(ctx, first, last, func(second int64, app string, n router.Sample) {
		apps := sums[second]
		if apps == nil {
			apps = map[string]router.Sample{}
			sums[second] = apps
		}
		apps[app] = apps[app].Plus(n)
	})
	if err != nil {
		return nil, err
	}
	return sums, nil
}

// eachRate calls fn for what every gateway counted of every app in the seconds
// from first to last, once all of it has been read.
func (s *Store) eachRate(ctx context.Context, first, last int64, fn func(second int64, app string, n router.Sample)) error {
	if last < first {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	replies := make([]*redis.MapStringStringCmd, 0, last-first+1)
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for second := first; second <= last; second++ {
			replies = append(replies, p.HGetAll(ctx, s.keys.rates(second)))
		}
		return nil
	})
	if err != nil {
		return s.fail(ctx, "reading the request rates", err)
	}
	for i, reply := range replies {
		for field, counts := range reply.Val() {
			bar := strings.LastIndexByte(field, '|')
			n, ok := decodeSample(counts)
			if !ok || bar < 0 {
				s.log.Warn("a stored request rate cannot be read", "field", field)
				continue
			}
			fn(first+int64(i), field[bar+1:], n)
		}
	}
	return nil
}

// encodeSample is the stored form of one gateway's count: numbers with commas
// between them. New ones go to the end, which older gateways do not read.
func encodeSample(n router.Sample) string {
	b := make([]byte, 0, 40)
	for i, v := range [...]int64{n.Requests, n.InFlight, n.Queued, n.Done, n.Service} {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, v, 10)
	}
	return string(b)
}

// decodeSample reads the stored form of a count, also that of a gateway which
// does not store all of it yet.
func decodeSample(text string) (n router.Sample, ok bool) {
	read := 0
	for _, to := range [...]*int64{&n.Requests, &n.InFlight, &n.Queued, &n.Done, &n.Service} {
		number, rest, more := strings.Cut(text, ",")
		v, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return router.Sample{}, false
		}
		*to = v
		read++
		if text = rest; !more {
			break
		}
	}
	return n, read >= 3
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
