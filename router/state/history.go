package state

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

// What is kept of an app's history.
const (
	historyLength = 500
	historyAge    = 7 * 24 * time.Hour
)

type eventRecord struct {
	stamp
	At     time.Time         `json:"at"`
	Kind   string            `json:"kind"`
	Text   string            `json:"text"`
	Fields map[string]string `json:"fields,omitempty"`
	Phases []phaseRecord     `json:"phases,omitempty"`
}

type phaseRecord struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took"` // nanoseconds
}

// Record adds to an app's history. Events are sorted by their time; those of
// one call that share a time keep their order. The last 500 of the last 7 days
// are kept. Repeating a call adds nothing.
func (s *Store) Record(ctx context.Context, app string, events ...router.Event) error {
	if len(events) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	members := make([]redis.Z, len(events))
	for i, e := range events {
		r := eventRecord{current, e.At.UTC(), e.Kind, e.Text, e.Fields, nil}
		for _, p := range e.Phases {
			r.Phases = append(r.Phases, phaseRecord(p))
		}
		members[i] = redis.Z{Score: float64(e.At.UnixMicro() + int64(i)), Member: encode(r)}
	}
	key := s.keys.history(app)
	_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.ZAdd(ctx, key, members...)
		p.ZRemRangeByRank(ctx, key, 0, -historyLength-1)
		p.ZRemRangeByScore(ctx, key, "-inf", oldest())
		p.Expire(ctx, key, historyAge)
		return nil
	})
	return s.fail(ctx, "recording the history of app "+app, err)
}

// History is an app's last events, newest first, limit at most (0: all).
func (s *Store) History(ctx context.Context, app string, limit int) ([]router.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if limit <= 0 || limit > historyLength {
		limit = historyLength
	}
	raw, err := s.client.ZRevRangeByScore(ctx, s.keys.history(app),
		&redis.ZRangeBy{Min: "(" + oldest(), Max: "+inf", Count: int64(limit)}).Result()
	if err != nil {
		return nil, s.fail(ctx, "reading the history of app "+app, err)
	}
	events := make([]router.Event, 0, len(raw))
	for _, text := range raw {
		r, err := decode[eventRecord]("an event of app "+app, text)
		if err != nil {
			return nil, err
		}
		e := router.Event{At: r.At, Kind: r.Kind, Text: r.Text, Fields: r.Fields}
		for _, p := range r.Phases {
			e.Phases = append(e.Phases, router.Phase(p))
		}
		events = append(events, e)
	}
	return events, nil
}

// oldest is the time before which events are forgotten, as a score.
func oldest() string { return strconv.FormatInt(time.Now().Add(-historyAge).UnixMicro(), 10) }
