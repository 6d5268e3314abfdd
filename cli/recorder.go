package cli

import (
	"context"
	"encoding/json"
	"time"

	"github.com/fluxgate/fluxgate/autoscale/decide"
	"github.com/fluxgate/fluxgate/router"
)

// traffics is where recorded traffic and what was learned of apps are stored.
type traffics interface {
	Traffic(ctx context.Context, app string, from, to time.Time) ([]router.Sample, error)
	Recorded(ctx context.Context, from, to time.Time) ([]bool, error)
	Recall(ctx context.Context, apps []string) (map[string][]byte, error)
}

// recorder puts together what a rehearsal needs of an app.
type recorder struct{ traffics }

// Traffic implements api.Recorder.
func (r recorder) Traffic(ctx context.Context, app string, from, to time.Time) (router.Traffic, error) {
	if most := to.Add(-24*time.Hour + time.Second); from.Before(most) {
		from = most
	}
	seconds, err := r.traffics.Traffic(ctx, app, from, to)
	if err != nil {
		return router.Traffic{}, err
	}
	recorded, err := r.Recorded(ctx, from, to)
	if err != nil {
		return router.Traffic{}, err
	}
	t := router.Traffic{From: time.Unix(from.Unix(), 0), Requests: make([]int64, len(seconds))}
	var all router.Sample
	begun := -1
	for i, s := range seconds {
		all = all.Plus(s)
		t.Requests[i] = s.Requests
		if minute := (from.Unix()+int64(i))/60 - from.Unix()/60; !recorded[minute] && s == (router.Sample{}) {
			t.Requests[i] = router.Unrecorded
		} else if begun < 0 {
			begun = i
		}
	}
	if begun < 0 {
		begun = len(seconds)
	}
	t.From, t.Requests = t.From.Add(time.Duration(begun)*time.Second), t.Requests[begun:]
	if all.Done > 0 {
		t.Service = time.Duration(all.Service/all.Done) * time.Microsecond
	}
	kept, err := r.Recall(ctx, []string{app})
	if err != nil {
		return router.Traffic{}, err
	}
	var learned struct {
		Times decide.Times `json:"times"`
	}
	if raw, ok := kept[app]; ok && json.Unmarshal(raw, &learned) == nil { // else nothing is known
		t.Thaw, t.Start, t.Create = learned.Times.Thaw, learned.Times.Start, learned.Times.Create
	}
	return t, nil
}
