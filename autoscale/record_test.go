package autoscale

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

type recorder func(now time.Time, known func(string) bool) error

func (r recorder) RecordTraffic(ctx context.Context, now time.Time, known func(string) bool) error {
	if _, ok := ctx.Deadline(); !ok {
		return errors.New("no deadline")
	}
	return r(now, known)
}

// Only who leads records, only apps that there are, and it goes on after a
// failure.
func TestRecording(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		calls, strangers, failures := 0, 0, 0
		catalog := router.NewCatalog()
		catalog.Apply(router.AppState{App: router.App{Name: "a"}, Version: 1})
		c := New(Options{Catalog: catalog, Recorder: recorder(func(now time.Time, known func(string) bool) error {
			calls++
			if !known("a") || known("b") || !now.Equal(time.Now()) {
				strangers++
			}
			if calls == 2 {
				failures++
				return errors.New("Redis is away")
			}
			return nil
		})})
		defer c.Close()
		done := make(chan bool)
		go func() {
			defer close(done)
			c.recordTraffic(ctx)
		}()
		time.Sleep(4*recordEvery + time.Second)
		if calls != 0 {
			t.Errorf("%d calls without leading", calls)
		}
		c.leads.Store(true)
		time.Sleep(3 * recordEvery)
		synctest.Wait()
		if calls != 3 || failures != 1 || strangers != 0 {
			t.Errorf("%d calls, %d failed, %d with other apps or another time", calls, failures, strangers)
		}
		cancel()
		<-done
	})
}
