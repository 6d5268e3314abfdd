package state

import (
	"context"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// keptEdits is how many changes of its policy an app keeps; the commit script
// knows the number too.
const keptEdits = 100

type editRecord struct {
	stamp
	At      time.Time     `json:"at"`
	By      string        `json:"by,omitempty"`
	Changes []fieldRecord `json:"changes"`
}

type fieldRecord struct {
	Key  string `json:"key"`
	From string `json:"from"`
	To   string `json:"to"`
}

// edits are the records that the change from prev to next adds to the history of
// the app's policy: one or none.
func edits(prev, next router.AppState) []string {
	before := prev.App.Policy
	if prev.Version == 0 {
		before = router.DefaultPolicy()
	}
	if before == next.App.Policy {
		return nil
	}
	r := editRecord{current, next.App.PolicyAt.UTC(), next.App.PolicyBy, nil}
	for _, c := range before.Changes(next.App.Policy) {
		r.Changes = append(r.Changes, fieldRecord(c))
	}
	return []string{encode(r)}
}

// PolicyHistory is who changed an app's policy when, newest first: the last 100
// changes. It is written together with the change itself, and goes with the app.
func (s *Store) PolicyHistory(ctx context.Context, app string) ([]router.PolicyEdit, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	raw, err := s.client.LRange(ctx, s.keys.edits(app), 0, keptEdits-1).Result()
	if err != nil {
		return nil, s.fail(ctx, "reading the policy's history of app "+app, err)
	}
	list := make([]router.PolicyEdit, 0, len(raw))
	for _, text := range raw {
		r, err := decode[editRecord]("a change of the policy of app "+app, text)
		if err != nil {
			return nil, err
		}
		e := router.PolicyEdit{At: r.At, By: r.By}
		for _, c := range r.Changes {
			e.Changes = append(e.Changes, router.FieldChange(c))
		}
		list = append(list, e)
	}
	return list, nil
}
