package autoscale

import (
	"fmt"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// TestRest: of apps that have nothing to be done, the one that comes to lead
// looks at none, and what it knows of one that was asked for is forgotten once
// that is kept.
func TestRest(t *testing.T) {
	c, ahead, _ := crowd(t, 1, 0, 0)
	for i := range 50 {
		name := fmt.Sprintf("app%d", i)
		st := router.AppState{Version: uint64(i + 1), App: router.App{Name: name, Policy: router.DefaultPolicy(), Current: 1}}
		st.Releases = []router.Release{{App: name, Number: 1, Run: router.DefaultRun()}}
		if i == 7 {
			st.App.Policy.Schedule = "0 8 * * 1-5 for 10h min=3"
		}
		c.Catalog.Apply(st)
	}
	look := func() (looked, known int) {
		t.Helper()
		ahead.Add(int64(time.Second))
		c.tick(t.Context(), true)
		return c.LastTick().Apps, len(c.minds.all())
	}
	if looked, known := look(); looked != 1 || known != 1 {
		t.Errorf("%d apps were looked at, and %d are known; want 1 and 1, the one with a schedule", looked, known)
	}
	if !c.Catalog.Amend("app3", func(st *router.AppState) { st.App.Policy.Max = 7 }) {
		t.Fatal("app3 is not there")
	}
	if looked, known := look(); looked != 1 || known != 2 {
		t.Errorf("after a change %d apps were looked at, and %d are known; want 1 and 2", looked, known)
	}
	ahead.Add(int64(2 * keepEvery))
	c.keepMinds(t.Context())
	if _, ok := c.minds.all()["app3"]; ok || len(c.minds.all()) != 1 {
		t.Errorf("after a while %d apps are known; want the one with a schedule", len(c.minds.all()))
	}
	if _, ok := c.agenda.when["app3"]; ok {
		t.Error("an app that rests has an appointment")
	}
}
