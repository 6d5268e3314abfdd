package autoscale

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, _ := crowd(t, 1, 0, 0)
		var r rounds
		var count atomic.Int64
		round := func(context.Context) {
			count.Add(1)
			time.Sleep(time.Second)
		}
		r.ask(c, round)
		synctest.Wait()
		for range 3 { // while the first is at it
			r.ask(c, round)
		}
		time.Sleep(time.Minute)
		if n := count.Load(); n != 2 {
			t.Fatalf("%d rounds, want one and another for all that came meanwhile", n)
		}
		r.ask(c, round)
		time.Sleep(time.Minute)
		if n := count.Load(); n != 3 {
			t.Fatalf("%d rounds after all was done", n)
		}
		c.Close()
		r.ask(c, round)
		time.Sleep(time.Minute)
		if n := count.Load(); n != 3 {
			t.Fatal("a round after the end")
		}
	})
}
