package cli

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, p := withPatience(t.Context(), time.Minute)
		defer p.end()
		for range 10 {
			time.Sleep(50 * time.Second)
			if !p.gotOn() || ctx.Err() != nil {
				t.Fatal("work that gets on was cut off")
			}
		}
		began := time.Now()
		<-ctx.Done()
		if waited := time.Since(began); waited != time.Minute {
			t.Errorf("work that stands still was cut off after %s; want a minute", waited)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, p := withPatience(t.Context(), time.Minute)
		p.end()
		if ctx.Err() == nil || p.gotOn() {
			t.Error("what has ended goes on")
		}
	})
}
