package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// acks records acknowledgements.
type acks struct {
	mu  sync.Mutex
	got []string
}

// add takes a DrainID and keeps the instance's ID.
func (a *acks) add(drain string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	instance, _, _ := strings.Cut(drain, "@")
	a.got = append(a.got, instance)
}

func (a *acks) count(instance string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, g := range a.got {
		if g == instance {
			n++
		}
	}
	return n
}

func (a *acks) ack(_ context.Context, _, drain string) error {
	a.add(drain)
	return nil
}

// Contract 2: under load, no request reaches an instance after its drain was
// acknowledged, and none fails, however often instances come and go.
func TestNoRequestAfterAcknowledgement(t *testing.T) {
	const instances, rounds, clients = 3, 60, 16
	var r *rig
	ack := &acks{}
	var frozen [instances]atomic.Bool // a request now would hang
	r = newRig(t, func(_ *Options, f *fakeEngine) {
		f.ack = ack.ack
		f.wake = func(context.Context, string) (router.Wake, error) { return router.Wake{}, nil }
	})
	var addrs [instances]string
	for i := range instances {
		addrs[i] = server(t, func(w http.ResponseWriter, _ *http.Request) {
			for range 3 {
				if frozen[i].Load() {
					t.Errorf("a request is in instance %d after its acknowledgement", i)
				}
				time.Sleep(100 * time.Microsecond) // be in it for a while
			}
			_, _ = io.WriteString(w, "ok")
		})
	}
	state := [instances]router.InstanceState{router.Ready, router.Ready, router.Ready}
	since := [instances]time.Time{}
	apply := func() {
		var ins []router.Instance
		for i := range instances {
			in := instance("a-"+string(rune('0'+i)), state[i], addrs[i])
			in.Since = since[i]
			ins = append(ins, in)
		}
		st := record("a", ins...)
		st.App.Policy.MaxConcurrency = 4
		r.apply(st)
	}
	apply()

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var served atomic.Int64
	for range clients {
		c := r.client()
		wg.Go(func() {
			for ctx.Err() == nil {
				if res, _ := r.get(c, "http://a.localhost/"); res.StatusCode != 200 {
					t.Errorf("%d", res.StatusCode)
					return
				}
				served.Add(1)
			}
		})
	}
	for round := range rounds {
		i := round % instances
		before := ack.count("a-" + string(rune('0'+i)))
		state[i], since[i] = router.Draining, time.Now()
		apply()
		if round%4 == 3 {
			// The drain is called off, perhaps before and perhaps after its
			// acknowledgement. What counts is that the instance serves again.
			state[i] = router.Ready
			apply()
			continue
		}
		eventually(t, "it is acknowledged", func() bool { return ack.count("a-"+string(rune('0'+i))) > before })
		frozen[i].Store(true)
		state[i] = router.Frozen
		apply()
		was := served.Load()
		eventually(t, "others serve", func() bool { return served.Load() > was+5 })
		frozen[i].Store(false)
		state[i] = router.Ready
		apply()
	}
	cancel()
	wg.Wait()
}

func TestAcknowledgement(t *testing.T) {
	draining := func(id, addr string) router.AppState { return record("a", instance(id, router.Draining, addr)) }

	t.Run("waits for the last request", func(t *testing.T) {
		ack := &acks{}
		r := newRig(t, func(_ *Options, f *fakeEngine) { f.ack = ack.ack })
		inside, leave := make(chan struct{}), make(chan struct{})
		addr := r.app("a", func(w http.ResponseWriter, _ *http.Request) {
			close(inside)
			<-leave
			_, _ = io.WriteString(w, "done")
		})
		answered := make(chan string)
		go func() {
			_, body := r.get(r.client(), "http://a.localhost/")
			answered <- body
		}()
		<-inside
		r.apply(draining("a-1", addr))
		// Another instance's drain is acknowledged meanwhile, so this one's would
		// have been, too.
		r.apply(record("b", instance("b-1", router.Draining, "127.0.0.1:1")))
		eventually(t, "b-1 is acknowledged", func() bool { return ack.count("b-1") == 1 })
		if ack.count("a-1") != 0 {
			t.Error("acknowledged with a request inside")
		}
		close(leave)
		if body := <-answered; body != "done" {
			t.Errorf("the last request got %q", body)
		}
		eventually(t, "a-1 is acknowledged", func() bool { return ack.count("a-1") == 1 })
	})

	t.Run("waits for the last stream", func(t *testing.T) {
		ack := &acks{}
		r := newRig(t, func(_ *Options, f *fakeEngine) { f.ack = ack.ack })
		leave := make(chan struct{})
		addr := r.app("a", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "begin")
			w.(http.Flusher).Flush()
			<-leave
		})
		res, err := r.client().Get("http://a.localhost/")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if _, err := io.ReadFull(res.Body, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		r.apply(draining("a-1", addr))
		r.apply(record("b", instance("b-1", router.Draining, "127.0.0.1:1")))
		eventually(t, "b-1 is acknowledged", func() bool { return ack.count("b-1") == 1 })
		if ack.count("a-1") != 0 {
			t.Error("acknowledged with a stream inside")
		}
		close(leave)
		_, _ = io.Copy(io.Discard, res.Body)
		eventually(t, "a-1 is acknowledged", func() bool { return ack.count("a-1") == 1 })
	})

	t.Run("of an instance never seen", func(t *testing.T) {
		ack := &acks{}
		r := newRig(t, func(_ *Options, f *fakeEngine) { f.ack = ack.ack })
		r.apply(draining("a-1", "127.0.0.1:1"))
		eventually(t, "a-1 is acknowledged", func() bool { return ack.count("a-1") == 1 })
	})

	t.Run("is repeated until it is taken", func(t *testing.T) {
		ack := &acks{}
		var tries atomic.Int32
		r := newRig(t, func(_ *Options, f *fakeEngine) {
			f.ack = func(ctx context.Context, g, in string) error {
				if g != "g1" {
					t.Errorf("gateway %q", g)
				}
				if _, ok := ctx.Deadline(); !ok {
					t.Error("a call without a deadline")
				}
				if tries.Add(1) < 3 {
					return errors.New("no connection")
				}
				return ack.ack(ctx, g, in)
			}
		})
		r.apply(draining("a-1", "127.0.0.1:1"))
		eventually(t, "a-1 is acknowledged", func() bool { return ack.count("a-1") == 1 })
	})

	t.Run("is given again for another draining", func(t *testing.T) {
		ack := &acks{}
		r := newRig(t, func(_ *Options, f *fakeEngine) { f.ack = ack.ack })
		st := draining("a-1", "127.0.0.1:1")
		for i := range 3 {
			// The Ready between may never be seen: only Since tells.
			st.Instances[0].Since = time.Unix(int64(i), 0)
			r.apply(st)
			eventually(t, "it is acknowledged", func() bool { return ack.count("a-1") == i+1 })
		}
	})

	t.Run("is not given for one that is ready again", func(t *testing.T) {
		fail := make(chan struct{})
		tries := make(chan struct{}, 100)
		ack := &acks{}
		r := newRig(t, func(_ *Options, f *fakeEngine) {
			f.ack = func(ctx context.Context, g, in string) error {
				select {
				case <-fail:
					return ack.ack(ctx, g, in)
				default:
					tries <- struct{}{}
					return errors.New("no connection")
				}
			}
		})
		addr := r.app("a", hello)
		r.apply(draining("a-1", addr))
		<-tries
		r.apply(record("a", instance("a-1", router.Ready, addr)))
		eventually(t, "it serves", func() bool { return r.serves("a", "a-1") })
		close(fail)
		if res, _ := r.get(r.client(), "http://a.localhost/"); res.StatusCode != 200 {
			t.Errorf("%d", res.StatusCode)
		}
		eventually(t, "the acknowledging has ended", func() bool {
			r.edge.fleet.mu.Lock()
			defer r.edge.fleet.mu.Unlock()
			return !r.edge.fleet.members["a-1"].acking
		})
		if ack.count("a-1") != 0 {
			t.Error("a ready instance was acknowledged")
		}
	})
}

// serves reports whether an instance is among those that get requests.
func (r *rig) serves(app, id string) bool {
	return slices.ContainsFunc(r.admission(app).target.Load().endpoints, func(u *upstream) bool { return u.instance == id })
}

// An acknowledgement that is under way when the instance becomes ready again
// holds nothing up, and names the draining that it was for.
func TestReopenedDuringAcknowledgement(t *testing.T) {
	calling, answer := make(chan string, 1), make(chan struct{})
	r := newRig(t, func(_ *Options, f *fakeEngine) {
		f.ack = func(_ context.Context, _, drain string) error {
			calling <- drain
			<-answer
			return nil
		}
	})
	defer close(answer)
	addr := r.app("a", hello)
	st := record("a", instance("a-1", router.Draining, addr))
	r.apply(st)
	if got := <-calling; got != st.Instances[0].DrainID() {
		t.Errorf("%q is acknowledged, want %q", got, st.Instances[0].DrainID())
	}
	r.apply(record("a", instance("a-1", router.Ready, addr)))
	if res, _ := r.get(r.client(), "http://a.localhost/"); res.StatusCode != 200 {
		t.Errorf("%d, want 200", res.StatusCode)
	}
}

// A deploy switches between two instances that are both ready.
func TestOnlyTheServingReleaseServes(t *testing.T) {
	r := newRig(t, nil)
	one := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "v1") })
	two := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "v2") })
	st := record("a", instance("a-1", router.Ready, one), instance("a-2", router.Ready, two))
	st.Releases = append(st.Releases, router.Release{App: "a", Number: 2, Run: router.DefaultRun()})
	st.Instances[1].Release = 2
	c := r.client()
	for _, current := range []int{1, 2, 1} {
		st.App.Current = current
		r.apply(st)
		for range 10 {
			if _, body := r.get(c, "http://a.localhost/"); body != st.Releases[current-1].Name() {
				t.Errorf("release %d serves and %s answers", current, body)
			}
		}
	}
}

// After stop and start, a container has another address.
func TestInstanceMoves(t *testing.T) {
	r := newRig(t, nil)
	c := r.client()
	for i, name := range []string{"here", "there"} {
		addr := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
		if i > 0 {
			r.apply(record("a", instance("a-1", router.Stopped, "")))
		}
		r.apply(record("a", instance("a-1", router.Ready, addr)))
		for range 3 {
			if _, body := r.get(c, "http://a.localhost/"); body != name {
				t.Errorf("%q, want %q", body, name)
			}
		}
	}
}

// What this gateway remembers of an instance goes with its record.
func TestForgottenInstances(t *testing.T) {
	r := newRig(t, nil)
	addr := r.app("a", hello)
	r.get(r.client(), "http://a.localhost/")
	r.apply(record("a", instance("a-2", router.Ready, addr)))
	st := record("a")
	st.Deleted = true
	r.apply(st)
	r.edge.fleet.mu.Lock()
	defer r.edge.fleet.mu.Unlock()
	if n := len(r.edge.fleet.members); n != 0 {
		t.Errorf("%d members left", n)
	}
	if n := r.edge.table.Load().Len(); n != 0 {
		t.Errorf("%d hostnames left", n)
	}
}

// A domain that moves from one app to another stays, whichever app's news come
// first.
func TestDomainMoves(t *testing.T) {
	for name, order := range map[string][]string{"taken first": {"b", "a"}, "given up first": {"a", "b"}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			addr := map[string]string{}
			for _, app := range []string{"a", "b"} {
				addr[app] = server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, app) })
			}
			put := func(app string, domains ...string) {
				st := record(app, instance(app+"-1", router.Ready, addr[app]))
				st.App.Domains = domains
				r.apply(st)
			}
			put("a", "www.example.com")
			put("b")
			for _, app := range order {
				if app == "a" {
					put("a")
				} else {
					put("b", "www.example.com")
				}
			}
			if _, body := r.get(r.client(), "http://www.example.com/"); body != "b" {
				t.Errorf("%q answers, want b", body)
			}
		})
	}
}

// A request that looked its app up before the instance left the Table, and goes
// on after the acknowledgement, is not let in there.
func TestOldTableDoesNotLetIn(t *testing.T) {
	ack := &acks{}
	r := newRig(t, func(_ *Options, f *fakeEngine) { f.ack = ack.ack })
	r.apply(record("a", instance("a-1", router.Ready, "127.0.0.1:1")))
	x := &exchange{edge: r.edge}
	x.target, _ = r.edge.table.Load().Lookup([]byte("a.localhost"))
	r.apply(record("a", instance("a-1", router.Draining, "127.0.0.1:1"), instance("a-2", router.Ready, "127.0.0.1:2")))
	eventually(t, "a-1 is acknowledged", func() bool { return ack.count("a-1") == 1 })
	err := x.target.admission.do(x, func(x *exchange) {
		if x.up.instance != "a-2" {
			t.Errorf("let in to %s", x.up.instance)
		}
	})
	if err != nil {
		t.Error(err)
	}
}
