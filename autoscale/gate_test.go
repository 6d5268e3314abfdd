package autoscale

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestGateOrder(t *testing.T) {
	// Each arrival is an app and a number; an exclamation mark makes it a first.
	for name, tc := range map[string]struct{ come, hurry, want string }{
		"one app":                            {come: "a1 a2 a3", want: "a1 a2 a3"},
		"apps take turns":                    {come: "a1 a2 a3 b1 b2 c1", want: "a1 b1 c1 a2 b2 a3"},
		"a first one is before further ones": {come: "a1 a2 b1! c1!", want: "b1 c1 a1 a2"},
		"first ones take turns":              {come: "a1! a2! b1!", want: "a1 b1 a2"},
		"one that requests wait for":         {come: "a1 a2 a3 b1", hurry: "b1", want: "b1 a1 a2 a3"},
		"further ones are not starved": {
			come: "z1 a1! b1! c1! d1! e1! f1! g1! h1! i1!", want: "a1 b1 c1 d1 e1 f1 g1 z1 h1 i1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newGates()
				open, err := s.enter(t.Context(), "n1", 1, "busy", "busy", true)
				if err != nil {
					t.Fatal(err)
				}
				var order []string // one at a time: the gate guards it
				var wg sync.WaitGroup
				for _, who := range strings.Fields(tc.come) {
					id, first := strings.CutSuffix(who, "!")
					wg.Go(func() {
						leave, err := s.enter(t.Context(), "n1", 1, id[:1], id, first)
						if err != nil {
							t.Error(err)
							return
						}
						order = append(order, id)
						leave()
					})
					synctest.Wait()
				}
				if tc.hurry != "" {
					s.hurry(tc.hurry)
				}
				open()
				wg.Wait()
				if got := strings.Join(order, " "); got != tc.want {
					t.Errorf("in the order %q, want %q", got, tc.want)
				}
				if len(s.nodes) != 0 || len(s.waiting) != 0 {
					t.Errorf("left behind: %d nodes, %d waiting", len(s.nodes), len(s.waiting))
				}
			})
		})
	}
}

// Who gives up waiting is not let in, and what it would have had goes to the
// next.
func TestGateGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newGates()
		open, _ := s.enter(t.Context(), "n1", 1, "a", "a0", true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.enter(ctx, "n1", 1, "a", "a1", false); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the deadline", err)
		}
		// Another node is no concern of it.
		leave, err := s.enter(ctx, "n2", 1, "a", "a2", false)
		if err != nil {
			t.Fatal(err)
		}
		leave()
		got := make(chan error)
		go func() {
			leave, err := s.enter(t.Context(), "n1", 1, "b", "b1", false)
			if err == nil {
				leave()
			}
			got <- err
		}()
		synctest.Wait()
		open()
		if err := <-got; err != nil {
			t.Error(err)
		}
		if len(s.nodes) != 0 || len(s.waiting) != 0 {
			t.Errorf("left behind: %d nodes, %d waiting", len(s.nodes), len(s.waiting))
		}
	})
}

// Never more than the limit, whoever gives up when; and in the end nothing is
// held.
func TestGateRace(t *testing.T) {
	const limit = 3
	s := newGates()
	var mu sync.Mutex
	inside, most := 0, 0
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%7)*time.Millisecond)
			defer cancel()
			id := fmt.Sprint(i)
			if i%2 == 0 {
				ctx = t.Context()
			}
			leave, err := s.enter(ctx, "n1", limit, fmt.Sprint(i%9), id, i%3 == 0)
			if err != nil {
				return
			}
			defer leave()
			s.hurry(id)
			mu.Lock()
			inside++
			most = max(most, inside)
			mu.Unlock()
			time.Sleep(50 * time.Microsecond) // be in for a while
			mu.Lock()
			inside--
			mu.Unlock()
		})
	}
	wg.Wait()
	if most > limit || len(s.nodes) != 0 || len(s.waiting) != 0 {
		t.Errorf("%d at once of %d; left behind: %d nodes, %d waiting", most, limit, len(s.nodes), len(s.waiting))
	}
}

// One app's forty further instances do not hold another app's first one back.
func TestScaleUpDoesNotHoldBackAWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newGates()
		began := time.Now()
		start := func(app, id string, first bool) time.Duration {
			leave, err := s.enter(t.Context(), "n1", 4, app, id, first)
			if err != nil {
				t.Error(err)
				return 0
			}
			defer leave()
			time.Sleep(100 * time.Millisecond) // what a start takes
			return time.Since(began)
		}
		for i := range 40 {
			go start("big", fmt.Sprint(i), false)
		}
		synctest.Wait()
		var took []time.Duration
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				d := start(fmt.Sprint("small", i), fmt.Sprint("small", i), true)
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
			})
		}
		wg.Wait()
		if worst := slices.Max(took); worst != 200*time.Millisecond {
			t.Errorf("the last first instance was there after %s, want 200ms", worst)
		}
		time.Sleep(2 * time.Second)
	})
}
