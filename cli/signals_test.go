package cli_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// tally is one client's account of its requests, one at a time.
type tally struct {
	mu   sync.Mutex
	sent []time.Time
	done []time.Time // when its answer was there; zero where none came
	stop chan struct{}
	wait sync.WaitGroup
}

func (m *machine) tally(app string) *tally {
	l := &tally{stop: make(chan struct{})}
	client := m.client()
	l.wait.Go(func() {
		for {
			select {
			case <-l.stop:
				return
			default:
			}
			sent := time.Now()
			a, err := fetch(client, m.app(app, "/"))
			done := time.Now()
			if err != nil || a.status != http.StatusOK {
				done = time.Time{}
			}
			l.mu.Lock()
			l.sent, l.done = append(l.sent, sent), append(l.done, done)
			l.mu.Unlock()
			if err != nil {
				return // the gateway is gone
			}
		}
	})
	return l
}

// answeredBefore is how many requests had been answered by then.
func (l *tally) answeredBefore(then time.Time) (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.done {
		if !t.IsZero() && t.Before(then) {
			n++
		}
	}
	return n
}

// rated is what is stored of a gateway's requests and answers for an app since
// start, and up to which second there is anything.
func (r *sharedRedis) rated(gateway, app string, start int64) (requests, done, last int64) {
	for second := start; second <= time.Now().Unix(); second++ {
		lines := strings.Split(r.ask("hgetall", fmt.Sprintf("fluxgate:rates:{%d}", second)), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			if !strings.HasPrefix(lines[i], gateway+".") || !strings.HasSuffix(lines[i], "|"+app) {
				continue
			}
			var n [5]int64 // requests, in flight, queued, done, service
			for k, text := range strings.SplitN(lines[i+1], ",", 5) {
				n[k], _ = strconv.ParseInt(text, 10, 64)
			}
			requests, done, last = requests+n[0], done+n[3], second
		}
	}
	return requests, done, last
}

// TestRatesOfTheKilled counts requests at two gateways and kills one: what is
// stored is what its client counted, but for at most its last second. The other
// one's count is exact.
func TestRatesOfTheKilled(t *testing.T) {
	a, b, redis := twoGateways(t)
	a.push("counted", "[scale]\nmin = 1\nmax = 1\n")
	a.awaitState("counted", "ready")
	b.knows("counted")
	idA, idB := gatewayID(t, a), gatewayID(t, b)
	var before int64 // b was asked whether it knows the app
	eventually(t, "what came before is stored", func() bool {
		n, done, last := redis.rated(idB, "counted", time.Now().Unix()-60)
		before = n
		return n > 0 && n == done && time.Now().Unix() > last+2
	})
	start := time.Now().Unix()
	atA, atB := a.tally("counted"), b.tally("counted")
	var flushed int64
	eventually(t, "a few seconds of the second gateway are stored", func() bool {
		_, _, flushed = redis.rated(idB, "counted", start)
		return flushed >= start+3
	})
	b.kill()
	close(atB.stop)
	atB.wait.Wait()
	close(atA.stop)
	atA.wait.Wait()

	// All of the seconds up to the last that is stored are complete.
	stored, done, last := redis.rated(idB, "counted", start-60)
	stored, done = stored-before, done-before
	atLeast, atMost := atB.answeredBefore(time.Unix(last+1, 0)), int64(len(atB.sent))
	if stored < atLeast || stored > atMost || done < atLeast {
		t.Errorf("the killed gateway: %d requests and %d answers are stored; its client had %d answers when the last stored second ended, and sent %d", stored, done, atLeast, atMost)
	}
	if lost := time.Unix(last+1, 0); atB.sent[len(atB.sent)-1].Sub(lost) > 2*time.Second {
		t.Errorf("the last stored second ended at %v; the gateway served until %v", lost, atB.sent[len(atB.sent)-1])
	}
	want := int64(len(atA.sent))
	eventually(t, fmt.Sprintf("all %d requests of the other gateway are stored", want), func() bool {
		n, done, _ := redis.rated(idA, "counted", start)
		return n == want && done == want
	})
	t.Logf("killed: %d stored of %d sent (%d surely before the last stored second ended); other: %d", stored, atMost, atLeast, want)
}

// TestVerticalFacts has an app burn all the CPU that it may, then eat more
// memory than it may: ps and why say so, and what to do.
func TestVerticalFacts(t *testing.T) {
	t.Cleanup(func() { _ = os.Remove("oom") }) // conmon leaves it where its service was started
	m := upMachine(t)
	m.push("greedy", "[resources]\ncpu = 0.2\nmemory = \"48MB\"\n[scale]\nmin = 1\nmax = 1\n")
	m.awaitState("greedy", "ready")
	client := m.client()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ask := func(path string) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.app("greedy", path), http.NoBody)
		if err != nil {
			t.Error(err)
			return
		}
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	group.Go(func() { ask("/burn") })
	eventually(t, "ps says that the CPU is short", func() bool { return strings.Contains(m.run("ps"), "raise resources.cpu above 0.2") })
	eventually(t, "why says so", func() bool { return strings.Contains(m.run("why", "greedy"), "advice: raise resources.cpu above 0.2") })
	group.Go(func() { ask("/eat") })
	eventually(t, "why says that memory ran out", func() bool {
		return strings.Contains(m.run("why", "greedy"), "raise resources.memory above 48MB")
	})
	if out := m.run("ps"); !strings.Contains(out, "greedy: an instance died") {
		t.Errorf("ps:\n%s", out)
	}
}
