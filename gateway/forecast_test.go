package gateway

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

func TestRetryAfter(t *testing.T) {
	for name, tc := range map[string]struct{ forecast, known, want time.Duration }{
		"nothing is known":                  {0, 0, time.Second},
		"a forecast":                        {7 * time.Second, 0, 7 * time.Second},
		"too far to foresee":                {time.Hour, 0, time.Minute},
		"the backoff ends later":            {3 * time.Second, 30 * time.Second, 30 * time.Second},
		"the backoff is longer than a look": {0, 2 * time.Minute, 2 * time.Minute},
		"the backoff ends sooner":           {9 * time.Second, 2 * time.Second, 9 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			if got := retryAfter(tc.forecast, tc.known); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

func TestWakeTimes(t *testing.T) {
	m := wakeTimes{}
	if got := m.expected(router.RungFrozen); got != 0 {
		t.Errorf("%s before anything was measured", got)
	}
	m.took(router.RungReady, time.Hour) // was none
	m.took(router.RungAbsent, 4*time.Second)
	m.took(router.RungFrozen, 10*time.Millisecond)
	m.took(router.RungFrozen, 20*time.Millisecond)
	for rung, want := range map[router.Rung]time.Duration{
		router.RungFrozen:  13 * time.Millisecond,
		router.RungAbsent:  4 * time.Second,
		router.RungStopped: 4 * time.Second, // never seen: no better than the longest
	} {
		if got := m.expected(rung); got != want {
			t.Errorf("from %s %s, want %s", rung, got, want)
		}
	}
}

// What is told is what was measured: of the wake, from the rung that the app is
// on, less what of it is over.
func TestRetryAfterOfAWake(t *testing.T) {
	for name, tc := range map[string]struct {
		measured time.Duration // an earlier wake; 0: none
		deadline time.Duration
		fails    time.Duration // the wake fails after that; 0: never
		want     time.Duration
	}{
		"it will be over soon":        {measured: 8 * time.Second, deadline: 3 * time.Second, want: 5 * time.Second},
		"it takes longer than usual":  {measured: 2 * time.Second, deadline: 5 * time.Second, want: 5 * time.Second},
		"the first one":               {deadline: 5 * time.Second, want: 5 * time.Second},
		"it fails, as often":          {measured: 4 * time.Second, deadline: 30 * time.Second, fails: time.Second, want: 4 * time.Second},
		"it fails late":               {measured: time.Second, deadline: 30 * time.Second, fails: 6 * time.Second, want: 6 * time.Second},
		"it fails, none was measured": {deadline: 30 * time.Second, fails: 6 * time.Second, want: 6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := router.DefaultPolicy()
				p.WakeDeadline = router.Duration(tc.deadline)
				b := newBubble(t, p)
				if tc.measured > 0 {
					b.wake = func(context.Context, string) (router.Wake, error) {
						b.ready(p, place())
						return router.Wake{From: router.RungAbsent, Took: tc.measured}, nil
					}
					if _, err := b.come(func(*exchange) {}); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					b.ready(p)
				}
				// The wake goes on when the request's time is over, for another came later.
				b.wake = func(ctx context.Context, _ string) (router.Wake, error) {
					if tc.fails > 0 {
						time.Sleep(tc.fails)
						return router.Wake{}, errors.New("no such image")
					}
					<-b.edge.life.Done()
					return router.Wake{}, ctx.Err()
				}
				x, err := b.come(func(*exchange) { t.Error("served") })
				if err == nil || x.again != tc.want {
					t.Errorf("come back in %s, want %s: %v", x.again, tc.want, err)
				}
				if page := x.pageFor(err); page.retryAfter != tc.want {
					t.Errorf("the page says %s, want %s", page.retryAfter, tc.want)
				}
			})
		})
	}
}

// A queue that moves one place in two seconds, with one being served and four before:
// that is what its refused request is told.
func TestRetryAfterOfAQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := router.DefaultPolicy()
		p.QueueDepth = 4
		b := newBubble(t, p, place())
		busy := func(*exchange) { time.Sleep(2 * time.Second) }
		for range 5 { // one is served, four wait
			go func() { _, _ = b.come(busy) }()
		}
		for range 8 {
			time.Sleep(2*time.Second + time.Millisecond)
			go func() { _, _ = b.come(busy) }()
		}
		synctest.Wait()
		x, err := b.come(busy)
		if err == nil || x.again < 7*time.Second || x.again > 11*time.Second {
			t.Errorf("come back in %s, want about 9s: %v", x.again, err)
		}
		// Another client's first would have come after one of the flood's.
		b.a.mu.Lock()
		other := b.a.untilServed(client{1}, time.Now())
		b.a.mu.Unlock()
		if other >= x.again/2 {
			t.Errorf("another client is told %s, the flood %s", other, x.again)
		}
		time.Sleep(time.Minute)
	})
}

// The time in which nothing could be served does not count as a slow queue.
func TestPaceLeavesOutTheSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := router.DefaultPolicy()
		b := newBubble(t, p)
		for range 11 {
			go func() { _, _ = b.come(func(*exchange) { time.Sleep(time.Second) }) }()
		}
		time.Sleep(10 * time.Second) // it wakes slowly
		b.ready(p, place())
		time.Sleep(5*time.Second + time.Millisecond)
		b.a.mu.Lock()
		five := b.a.untilServed(client{}, time.Now())
		waiting := b.a.queue.size
		b.a.mu.Unlock()
		if waiting != 5 || five < 4*time.Second || five > 6*time.Second {
			t.Errorf("%d wait, said to take %s, want about 5s", waiting, five)
		}
		time.Sleep(time.Minute)
	})
}

// On the wire it is whole seconds, rounded up.
func TestRetryAfterOnTheWire(t *testing.T) {
	r := newRig(t, nil)
	free, entered := busyApp(r, func(p *router.Policy) { p.QueueDepth = 1 })
	defer close(free)
	done := make(chan struct{}, 2)
	for i := range 2 {
		go func() {
			_, _ = r.get(r.client(), "http://a.localhost/")
			done <- struct{}{}
		}()
		eventually(t, "it is there", func() bool { return len(entered)+r.waiting("a") == i+1 })
	}
	a := r.admission("a")
	a.mu.Lock()
	a.pace = pace{places: 100, seconds: 205, last: time.Now().Add(time.Hour)} // not to fade meanwhile
	a.mu.Unlock()
	res, _ := r.get(r.client(), "http://a.localhost/")
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") != "3" {
		t.Errorf("%d, Retry-After %q, want 503 and 3", res.StatusCode, res.Header.Get("Retry-After"))
	}
	free <- struct{}{}
	free <- struct{}{}
	<-done
	<-done
}
