package gateway

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

func TestClientOf(t *testing.T) {
	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	for name, tc := range map[string]struct {
		a, b net.Addr
		same bool
	}{
		"one IPv4 address, two ports":     {&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1).To4(), Port: 1}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 2}, true},
		"two IPv4 addresses":              {tcp("192.0.2.1"), tcp("192.0.2.2"), false},
		"two IPv6 addresses of one /64":   {tcp("2001:db8:0:1::1"), tcp("2001:db8:0:1:ffff::2"), true},
		"two IPv6 addresses, another /64": {tcp("2001:db8:0:1::1"), tcp("2001:db8:0:2::1"), false},
		"IPv4 and IPv6":                   {tcp("192.0.2.1"), tcp("::"), false},
		"no TCP":                          {&net.UnixAddr{}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			if same := clientOf(tc.a) == clientOf(tc.b); same != tc.same {
				t.Errorf("one client: %v, want %v", same, tc.same)
			}
		})
	}
}

// cast is waiters with names: a letter for the client, and a number.
type cast struct {
	q     queue
	names map[*waiter]string
}

func (c *cast) push(name string) *waiter {
	w := new(waiter)
	if c.names == nil {
		c.names = map[*waiter]string{}
	}
	c.names[w] = name
	c.q.push(w, client{name[0]})
	return w
}

func TestTurns(t *testing.T) {
	for name, tc := range map[string]struct{ come, leave, want string }{
		"one client is first in, first out":           {come: "a1 a2 a3", want: "a1 a2 a3"},
		"two take turns":                              {come: "a1 a2 a3 b1 b2", want: "a1 b1 a2 b2 a3"},
		"who comes late waits for one of each":        {come: "a1 a2 a3 a4 b1 b2 b3 c1", want: "a1 b1 c1 a2 b2 a3 b3 a4"},
		"who leaves from the middle":                  {come: "a1 a2 a3 b1", leave: "a2", want: "a1 b1 a3"},
		"whose turn it is leaves":                     {come: "a1 b1 c1 b2", leave: "a1", want: "b1 c1 b2"},
		"a client that leaves whole":                  {come: "a1 b1 b2 c1 a2", leave: "b1 b2", want: "a1 c1 a2"},
		"everybody leaves":                            {come: "a1 b1", leave: "b1 a1", want: ""},
		"a client that comes back has the last turn":  {come: "a1 b1 a2", leave: "b1", want: "a1 a2"},
		"the newest of a flow leaves, the rest stays": {come: "a1 a2 b1", leave: "a2", want: "a1 b1"},
	} {
		t.Run(name, func(t *testing.T) {
			var c cast
			by := map[string]*waiter{}
			for _, n := range strings.Fields(tc.come) {
				by[n] = c.push(n)
			}
			for _, n := range strings.Fields(tc.leave) {
				c.q.remove(by[n])
			}
			var got []string
			for w := c.q.pop(); w != nil; w = c.q.pop() {
				got = append(got, c.names[w])
			}
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("in the order %q, want %q", s, tc.want)
			}
			if c.q.size != 0 || len(c.q.flows) != 0 || c.q.turn != nil || c.q.longest != 0 {
				t.Errorf("left behind: size %d, %d flows, longest %d", c.q.size, len(c.q.flows), c.q.longest)
			}
		})
	}
}

// Random clients come, leave and are served: the queue agrees with a model that
// is too slow to be wrong, and no two clients that wait all the time are ever
// served more than one request apart.
func TestTurnsProperty(t *testing.T) {
	for range 50 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) { turnsProperty(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func turnsProperty(t *testing.T, r *rand.Rand) {
	t.Helper()
	var q queue
	model := map[client][]*waiter{}
	var ring []client
	served := map[[2]client]int{} // places that the first got since both wait
	clients := 1 + r.IntN(12)
	gone := func(c client) {
		if len(model[c]) > 0 {
			return
		}
		delete(model, c)
		ring = slices.DeleteFunc(ring, func(o client) bool { return o == c })
		for pair := range served {
			if pair[0] == c || pair[1] == c {
				delete(served, pair)
			}
		}
	}
	for range 3000 {
		c := client{byte(r.IntN(clients))}
		if r.IntN(3) == 0 {
			c = client{0} // it floods
		}
		switch n := r.IntN(10); {
		case n < 5:
			w := new(waiter)
			q.push(w, c)
			if len(model[c]) == 0 {
				ring = append(ring, c)
			}
			model[c] = append(model[c], w)
		case n < 7 && len(model[c]) > 0:
			i := r.IntN(len(model[c]))
			q.remove(model[c][i])
			model[c] = slices.Delete(model[c], i, i+1)
			gone(c)
		default:
			w := q.pop()
			if len(ring) == 0 {
				if w != nil {
					t.Fatal("somebody was served of an empty queue")
				}
				continue
			}
			turn := ring[0]
			if w != model[turn][0] {
				t.Fatal("the wrong one was served")
			}
			for _, other := range ring[1:] {
				served[[2]client{turn, other}]++
				if d := served[[2]client{turn, other}] - served[[2]client{other, turn}]; d > 1 {
					t.Fatalf("one client is %d places ahead of another that waits", d)
				}
			}
			model[turn] = model[turn][1:]
			ring = append(ring[1:], turn)
			gone(turn)
		}
		size, longest := 0, 0
		for c, ws := range model {
			size, longest = size+len(ws), max(longest, len(ws))
			if q.of(c) != len(ws) {
				t.Fatalf("%d of a client wait, want %d", q.of(c), len(ws))
			}
		}
		if q.size != size || len(q.flows) != len(model) || q.longest != longest {
			t.Fatalf("size %d, %d flows, longest %d; want %d, %d, %d", q.size, len(q.flows), q.longest, size, len(model), longest)
		}
		if w := q.newestOfLongest(); size > 0 && (w.flow.size != longest || w != model[w.flow.client][longest-1]) {
			t.Fatal("not the newest of the longest flow")
		}
	}
}

// clientFrom is an HTTP client with a loopback address of its own.
func (r *rig) clientFrom(ip string) *http.Client {
	c := r.client()
	c.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		return d.DialContext(ctx, "tcp", r.http)
	}
	return c
}

// A client that floods does not hold another back: whoever comes is served
// after one of the flood.
func TestFloodDoesNotStarve(t *testing.T) {
	const flood = 50
	r := newRig(t, nil)
	free, entered := busyApp(r, nil)
	bad, good := r.clientFrom("127.0.0.1"), r.clientFrom("127.0.0.2")
	var wg sync.WaitGroup
	for i := range flood {
		wg.Go(func() { r.get(bad, "http://a.localhost/flood") })
		if i == 0 {
			eventually(t, "the first is in", func() bool { return len(entered) == 1 })
		}
	}
	eventually(t, "the flood waits", func() bool { return r.waiting("a") == flood-1 })
	wg.Go(func() { r.get(good, "http://a.localhost/good") })
	eventually(t, "the other waits", func() bool { return r.waiting("a") == flood })
	for i, want := range []string{"/flood", "/flood", "/good", "/flood"} {
		if got := <-entered; got != want {
			t.Errorf("place %d went to %s, want %s", i, got, want)
		}
		free <- struct{}{}
	}
	close(free)
	wg.Wait()
}

// In a full queue a newcomer takes the place of the flood's last request, and
// the flood itself gets no more in.
func TestFullQueueDropsTheFlood(t *testing.T) {
	const depth = 6
	r := newRig(t, nil)
	free, entered := busyApp(r, func(p *router.Policy) { p.QueueDepth = depth })
	bad, good := r.clientFrom("127.0.0.1"), r.clientFrom("127.0.0.2")
	var wg sync.WaitGroup
	var mu sync.Mutex
	refused := map[string]int{}
	get := func(c *http.Client, path string) {
		wg.Go(func() {
			res, body := r.get(c, "http://a.localhost"+path)
			if res.StatusCode == 200 {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			refused[path]++
			if res.StatusCode != 503 || res.Header.Get("Retry-After") == "" || !strings.Contains(body, "busy") {
				t.Errorf("%d, Retry-After %q, %s", res.StatusCode, res.Header.Get("Retry-After"), body)
			}
		})
	}
	get(bad, "/0")
	eventually(t, "one is in", func() bool { return len(entered) == 1 })
	for i := range depth {
		get(bad, fmt.Sprintf("/%d", i+1))
		eventually(t, "it waits", func() bool { return r.waiting("a") == i+1 })
	}
	count := func(path string) int {
		mu.Lock()
		defer mu.Unlock()
		return refused[path]
	}
	get(bad, "/more")
	eventually(t, "the flood's newcomer is refused", func() bool { return count("/more") == 1 })
	for i := range depth / 2 {
		get(good, fmt.Sprintf("/good-%d", i))
		lost := fmt.Sprintf("/%d", depth-i)
		eventually(t, lost+" is sent away", func() bool { return count(lost) == 1 })
	}
	// Both have as many now: the next newcomer of either is the one to go.
	get(good, "/good-more")
	eventually(t, "the other's newcomer is refused", func() bool { return count("/good-more") == 1 })
	close(free)
	wg.Wait()
	if len(refused) != 2+depth/2 {
		t.Errorf("refused: %v", refused)
	}
}

// Many clients come, wait, hang up and are served at once.
func TestFairQueueRace(t *testing.T) {
	r := newRig(t, nil)
	addr := server(t, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(200 * time.Microsecond) // be busy for a moment
		_, _ = io.WriteString(w, "ok")
	})
	st := record("a", instance("a-1", router.Ready, addr), instance("a-2", router.Ready, addr))
	st.App.Policy.MaxConcurrency, st.App.Policy.QueueDepth = 2, 30
	r.apply(st)
	var wg sync.WaitGroup
	for i := range 8 {
		c := r.clientFrom(fmt.Sprintf("127.0.1.%d", i+1))
		for range 8 {
			wg.Go(func() {
				for k := range 40 {
					ctx, cancel := context.WithCancel(t.Context())
					if k%8 == 7 {
						time.AfterFunc(time.Duration(k)*20*time.Microsecond, cancel)
					}
					req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://a.localhost/", http.NoBody)
					res, err := c.Do(req)
					if err == nil {
						_, _ = io.Copy(io.Discard, res.Body)
						res.Body.Close()
						if res.StatusCode != 200 && res.StatusCode != 503 {
							t.Errorf("%d", res.StatusCode)
						}
					} else if ctx.Err() == nil {
						t.Error(err)
					}
					cancel()
				}
			})
		}
	}
	wg.Wait()
	a := r.admission("a")
	eventually(t, "all places are free and nobody waits", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.inFlight.Load() == 0 && a.waiting.Load() == 0 && a.queue.size == 0 && len(a.queue.flows) == 0
	})
}

func BenchmarkQueue(b *testing.B) {
	for _, clients := range []int{1, 1000} {
		b.Run(fmt.Sprintf("%d clients, 5000 wait", clients), func(b *testing.B) {
			var q queue
			ws := make([]waiter, 5000)
			key := func(i int) client { return client{byte(i), byte(i >> 8)} }
			for i := range ws {
				q.push(&ws[i], key(i%clients))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				w := q.pop()
				q.push(w, key(i%clients))
			}
		})
	}
}
