package state

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

// What is kept of an app's history: so many events, none older or longer than
// that. What is longer loses its details, then the end of its sentence.
const (
	historyLength = 1000
	historyAge    = 7 * 24 * time.Hour
	eventLength   = 2 << 10 // bytes, encoded
)

type eventRecord struct {
	stamp
	At       time.Time         `json:"at"`
	Kind     string            `json:"kind"`
	Text     string            `json:"text"`
	Fields   map[string]string `json:"fields,omitempty"`
	Phases   []phaseRecord     `json:"phases,omitempty"`
	Decision *decisionRecord   `json:"decision,omitempty"`
}

type phaseRecord struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took"` // nanoseconds
}

type decisionRecord struct {
	Had     int            `json:"had"`
	Desired int            `json:"desired"`
	Frozen  int            `json:"frozen,omitempty"`
	Rule    string         `json:"rule"`
	Votes   []voteRecord   `json:"votes,omitempty"`
	Signals []signalRecord `json:"signals,omitempty"`
}

type voteRecord struct {
	Rule   string `json:"rule"`
	Count  int    `json:"count"`
	Reason string `json:"reason,omitempty"`
}

type signalRecord struct {
	Name   string          `json:"name"`
	Value  float64         `json:"value"`
	Unit   string          `json:"unit,omitempty"`
	Window router.Duration `json:"window,omitempty"`
}

// encodeEvent is the stored form of an event, eventLength bytes at most.
func encodeEvent(e router.Event) string {
	r := eventRecord{current, e.At.UTC(), e.Kind, e.Text, e.Fields, nil, nil}
	for _, p := range e.Phases {
		r.Phases = append(r.Phases, phaseRecord(p))
	}
	if d := e.Decision; d != nil {
		r.Decision = &decisionRecord{Had: d.Had, Desired: d.Desired, Frozen: d.Frozen, Rule: d.Rule}
		for _, v := range d.Votes {
			r.Decision.Votes = append(r.Decision.Votes, voteRecord(v))
		}
		for _, v := range d.Signals {
			r.Decision.Signals = append(r.Decision.Signals, signalRecord(v))
		}
	}
	text := encode(r)
	for _, shorten := range []func(){
		func() {
			if r.Decision != nil {
				for i := range r.Decision.Votes {
					r.Decision.Votes[i].Reason = ""
				}
			}
		},
		func() { r.Fields, r.Decision = nil, nil },
		func() { r.Phases = nil },
		func() { r.Text = strings.ToValidUTF8(r.Text[:min(len(r.Text), eventLength/8)], "") + " …" }, // a byte may become six
	} {
		if len(text) <= eventLength {
			break
		}
		shorten()
		text = encode(r)
	}
	return text
}

func decodeEvent(app, text string) (router.Event, error) {
	r, err := decode[eventRecord]("an event of app "+app, text)
	if err != nil {
		return router.Event{}, err
	}
	e := router.Event{At: r.At, Kind: r.Kind, Text: r.Text, Fields: r.Fields}
	for _, p := range r.Phases {
		e.Phases = append(e.Phases, router.Phase(p))
	}
	if d := r.Decision; d != nil {
		e.Decision = &router.Decision{Had: d.Had, Desired: d.Desired, Frozen: d.Frozen, Rule: d.Rule}
		for _, v := range d.Votes {
			e.Decision.Votes = append(e.Decision.Votes, router.Vote(v))
		}
		for _, v := range d.Signals {
			e.Decision.Signals = append(e.Decision.Signals, router.Signal(v))
		}
	}
	return e, nil
}

// Record adds to an app's history. Events are sorted by their time; those of
// one call that share a time keep their order. The last 1000 of the last 7 days
// are kept, in a fixed size: what is longer than 2 KB loses its details.
// Repeating a call adds nothing.
func (s *Store) Record(ctx context.Context, app string, events ...router.Event) error {
	if len(events) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	members := make([]redis.Z, len(events))
	for i, e := range events {
		members[i] = redis.Z{Score: float64(e.At.UnixMicro() + int64(i)), Member: encodeEvent(e)}
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

// History is an app's events, newest first, limit at most (0: all). With at
// they are those around that moment, about half of them later; else the last.
func (s *Store) History(ctx context.Context, app string, at time.Time, limit int) ([]router.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if limit <= 0 || limit > historyLength {
		limit = historyLength
	}
	key := s.keys.history(app)
	until, later := "+inf", []string(nil)
	if !at.IsZero() {
		until = strconv.FormatInt(at.UnixMicro(), 10)
	}
	if !at.IsZero() && limit > 1 {
		var err error
		later, err = s.client.ZRangeByScore(ctx, key, &redis.ZRangeBy{Min: "(" + until, Max: "+inf", Count: int64(limit / 2)}).Result()
		if err != nil {
			return nil, s.fail(ctx, "reading the history of app "+app, err)
		}
		slices.Reverse(later)
	}
	raw, err := s.client.ZRevRangeByScore(ctx, key,
		&redis.ZRangeBy{Min: "(" + oldest(), Max: until, Count: int64(limit - len(later))}).Result()
	if err != nil {
		return nil, s.fail(ctx, "reading the history of app "+app, err)
	}
	events := make([]router.Event, 0, len(later)+len(raw))
	for _, text := range append(later, raw...) {
		e, err := decodeEvent(app, text)
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}

// oldest is the time before which events are forgotten, as a score.
func oldest() string { return strconv.FormatInt(time.Now().Add(-historyAge).UnixMicro(), 10) }
