package cli_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestFaults drives two gateways, three machines and one Redis through pushes,
// wakes and faults that chance chooses, and checks the contracts from outside:
// by a log of what clients were answered, and by what Podman itself has at the
// end. A run is repeated with the seed that it prints:
//
//	FLUXGATE_TEST_SEED=… FLUXGATE_TEST_FAULTS=10m go test -run TestFaults ./cli
func TestFaults(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("FLUXGATE_TEST_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	length := 45 * time.Second
	if s := os.Getenv("FLUXGATE_TEST_FAULTS"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("FLUXGATE_TEST_SEED=%d", seed)
	w := newFaultWorld(t, rand.New(rand.NewPCG(seed, 0)))
	for _, app := range faultNames() {
		w.visit(app)
	}
	for began := time.Now(); time.Since(began) < length; {
		w.fault()
		time.Sleep(time.Duration(w.chance.IntN(2000)) * time.Millisecond)
	}
	w.heal()
	close(w.stop)
	w.visitors.Wait()
	w.judge()
	w.compare()
}

// faultApps are the apps, each with its manifest: one that is always busy, one
// for each rung, and one that is now and then asked for more than an instance can
// do.
var faultApps = map[string]string{
	"busy": "[scale]\nmin = 2\nmax = 3\n",
	"nap":  quickFreeze,
	"rest": "[scale]\nfreeze_after = \"1s\"\nstop_after = \"1s\"\n",
	"gone": "[scale]\nfreeze_after = \"1s\"\nstop_after = \"1s\"\nremove_after = \"1s\"\n",
	"wide": "[scale]\nmax = 3\ntarget_concurrency = 3\nmax_concurrency = 4\nslow_window = \"6s\"\nfast_window = \"2s\"\nfreeze_after = \"2s\"\n",
}

func faultNames() []string { return slices.Sorted(maps.Keys(faultApps)) }

// faultWorld is what the faults happen to.
type faultWorld struct {
	t        *testing.T
	chance   *rand.Rand
	gateways []*machine
	flags    []string
	nodes    []*fleetNode
	redis    *sharedRedis
	stop     chan struct{}
	visitors sync.WaitGroup

	mu      sync.Mutex
	visits  []visit
	excuses []excuse
	down    map[*machine]bool
	clients map[*machine]*http.Client
	pushes  int
}

// visit is one request as its client saw it.
type visit struct {
	app     string
	at      time.Time
	took    time.Duration
	gateway *machine
	answer  answer
	err     error
}

// excuse is a fault for which some requests may fail: those that were under way
// at a gateway that was killed, or on an instance that was.
type excuse struct {
	what     string
	gateway  *machine // of connections that broke; nil: any
	from, to time.Time
}

func newFaultWorld(t *testing.T, chance *rand.Rand) *faultWorld {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	w := &faultWorld{t: t, chance: chance, stop: make(chan struct{}), down: map[*machine]bool{}, clients: map[*machine]*http.Client{}}
	a, b := newMachine(t), newMachine(t)
	key := newKey(t, a.dir)
	for i, disk := range []string{"800m", "", ""} {
		w.nodes = append(w.nodes, newFleetNodeWith(t, i+1, key, disk))
	}
	w.redis = newSharedRedis(t, a.dir)
	w.flags = []string{"--no-local", "--ssh-key", key, "--redis", w.redis.url()}
	for _, m := range []*machine{a, b} {
		m.ownPodman = true
		m.start(w.flags...)
		w.gateways = append(w.gateways, m)
		w.clients[m] = m.client()
	}
	for i, n := range w.nodes {
		args := []string{"node", "add", n.url, "--name", n.name, "--host-key", n.print}
		if i == 2 {
			args = append(args, "--tunnel")
		}
		a.run(args...)
	}
	for _, app := range faultNames() {
		a.push(app, faultApps[app])
		b.knows(app)
	}
	return w
}

// visit has a client ask an app now and then, at either gateway.
func (w *faultWorld) visit(app string) {
	pause := map[string]int{"busy": 60, "nap": 2500, "rest": 5000, "gone": 4000, "wide": 8000}[app]
	chance := rand.New(rand.NewPCG(w.chance.Uint64(), 1))
	for range 2 {
		w.visitors.Go(func() {
			for i := 0; ; i++ {
				w.mu.Lock()
				next := time.Duration(chance.IntN(pause)) * time.Millisecond
				w.mu.Unlock()
				select {
				case <-w.stop:
					return
				case <-time.After(next):
				}
				w.mu.Lock()
				m := w.gateways[chance.IntN(2)]
				w.mu.Unlock()
				if client, url := w.way(m, app, "/"); client != nil {
					w.call(m, client, app, url)
				}
			}
		})
	}
}

// way is how a client gets to an app by a gateway; no client while that is down.
func (w *faultWorld) way(m *machine, app, path string) (client *http.Client, url string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down[m] {
		return nil, ""
	}
	return w.clients[m], m.app(app, path)
}

// call is one visit.
func (w *faultWorld) call(m *machine, client *http.Client, app, url string) {
	v := visit{app: app, at: time.Now(), gateway: m}
	v.answer, v.err = fetch(client, url)
	v.took = time.Since(v.at)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.visits = append(w.visits, v)
}

// crowd has an app asked for more than one instance of it can do, until wait is
// over.
func (w *faultWorld) crowd(m *machine, wait time.Duration) {
	for range 10 {
		w.visitors.Go(func() {
			for began := time.Now(); time.Since(began) < wait; {
				client, url := w.way(m, "wide", "/slow?ms=400")
				if client == nil {
					return
				}
				w.call(m, client, "wide", url)
			}
		})
	}
}

func (w *faultWorld) excuse(what string, m *machine, from, to time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.excuses = append(w.excuses, excuse{what, m, from, to})
}

// fault is one thing that goes wrong, or that a user does.
func (w *faultWorld) fault() {
	began := time.Now()
	node := w.nodes[w.chance.IntN(3)]
	m := w.gateways[w.chance.IntN(2)]
	wait := time.Duration(500+w.chance.IntN(3500)) * time.Millisecond
	what := ""
	switch w.chance.IntN(14) {
	case 0:
		what = "node " + node.name + " is cut off"
		node.cut()
		time.Sleep(wait + 2*time.Second)
		node.mend()
		w.excuse(what, nil, began, began.Add(4*time.Second))
	case 1:
		what = "a gateway is killed"
		w.restart(m, began)
	case 2:
		what = "a container is killed"
		ids := node.containers()
		if len(ids) == 0 {
			return
		}
		_ = node.inside(append(node.args, "kill", "--signal", "KILL", "fluxgate-"+ids[w.chance.IntN(len(ids))])...).Run() // it may be gone or frozen
		w.excuse(what, nil, began, time.Now().Add(2*time.Second))
	case 3:
		what = "redis hangs"
		resume := w.redis.pause()
		time.Sleep(wait)
		resume()
	case 4:
		what = "redis is restarted"
		w.redis.kill()
		w.redis.start()
	case 5:
		what = "the Podman of " + node.name + " hangs"
		pid := node.service.Process.Pid
		_ = syscall.Kill(pid, syscall.SIGSTOP)
		time.Sleep(wait)
		_ = syscall.Kill(pid, syscall.SIGCONT)
	case 6:
		w.pushes++
		what = fmt.Sprintf("push %d", w.pushes)
		if out, code := m.try("push", m.appFolder("busy", fmt.Sprintf("%s[env]\nPUSH = \"%d\"\n", faultApps["busy"], w.pushes))); code != 0 {
			what += ", refused: " + firstLineOf(out)
		}
	case 7:
		what = "node " + node.name + " is drained"
		if out, code := m.try("node", "drain", node.name, "--timeout", "20s"); code != 0 {
			what += ", not quite: " + firstLineOf(out)
		}
		eventually(w.t, "the node takes instances again", func() bool { _, code := m.try("node", "drain", "--undo", node.name); return code == 0 })
	case 8:
		what = "the Podman of " + node.name + " is killed"
		_ = syscall.Kill(-node.service.Process.Pid, syscall.SIGKILL)
		_ = node.service.Wait()
		time.Sleep(wait)
		node.startPodman()
	case 9:
		what = "redis is emptied"
		w.redis.ask("flushall")
		eventually(w.t, "Redis is written back", func() bool { return w.redis.ask("hlen", "{fluxgate}:apps") == fmt.Sprint(len(faultApps)) })
	case 10:
		what = "node " + node.name + " loses its power"
		node.powerOff()
		time.Sleep(wait + 2*time.Second)
		node.powerOn()
		w.excuse(what, nil, began, began.Add(4*time.Second))
	case 11:
		wait *= 2
		what = "a gateway stands still"
		_ = m.up.Process.Signal(syscall.SIGSTOP)
		time.Sleep(wait)
		_ = m.up.Process.Signal(syscall.SIGCONT)
	case 12:
		what = "the disk of " + w.nodes[0].name + " is full"
		free := w.nodes[0].fill(0)
		time.Sleep(2 * wait)
		free()
	case 13:
		what = "a crowd comes"
		w.crowd(m, wait+4*time.Second)
		time.Sleep(wait)
	}
	w.t.Logf("%s %s, %v", began.Format("15:04:05.000"), what, time.Since(began).Round(time.Millisecond))
}

func firstLineOf(s string) string { line, _, _ := strings.Cut(s, "\n"); return line }

// restart kills a gateway and starts it again; while it is away its client asks
// the other one.
func (w *faultWorld) restart(m *machine, began time.Time) {
	w.mu.Lock()
	w.down[m] = true
	w.mu.Unlock()
	m.kill()
	w.excuse("a gateway is killed", m, began.Add(-50*time.Millisecond), time.Now().Add(50*time.Millisecond))
	m.start(w.flags...)
	w.mu.Lock()
	w.clients[m], w.down[m] = m.client(), false
	w.mu.Unlock()
}

// heal waits until all that was broken works again.
func (w *faultWorld) heal() {
	for _, m := range w.gateways {
		eventually(w.t, "every node answers", func() bool {
			out, code := m.try("node", "ls")
			return code == 0 && strings.Count(out, " ok ") == 3
		})
	}
}

// judge holds every answer against what the contracts allow.
func (w *faultWorld) judge() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	ok, refused, excused, wrong := 0, 0, 0, 0
	for _, v := range w.visits {
		switch {
		case v.err == nil && v.answer.status == http.StatusOK:
			ok++
		case v.err == nil && v.answer.status == http.StatusServiceUnavailable && v.answer.header.Get("Retry-After") != "":
			refused++
			_, title, _ := strings.Cut(v.answer.body, "<title>")
			title, _, _ = strings.Cut(title, "<")
			w.t.Logf("%s %s: 503 after %v: %s", v.at.Format("15:04:05.000"), v.app, v.took.Round(time.Millisecond), title)
		case w.excused(v):
			excused++
		default:
			wrong++
			if wrong <= 10 {
				w.t.Errorf("%s %s after %v: %d %v %.200s", v.at.Format("15:04:05.000"), v.app, v.took.Round(time.Millisecond), v.answer.status, v.err, v.answer.body)
			}
		}
	}
	w.t.Logf("%d requests: %d answered, %d told to come back, %d under way where something died, %d wrong", len(w.visits), ok, refused, excused, wrong)
	if ok == 0 || refused > len(w.visits)/20 {
		w.t.Errorf("%d of %d requests were told to come back", refused, len(w.visits))
	}
}

// excused reports whether a request may have failed: a connection, where its
// gateway was killed; a 502, where its instance may have been.
func (w *faultWorld) excused(v visit) bool {
	return slices.ContainsFunc(w.excuses, func(e excuse) bool {
		if v.at.After(e.to) || v.at.Add(v.took).Before(e.from) {
			return false
		}
		if e.gateway != nil {
			return v.err != nil && v.gateway == e.gateway
		}
		return v.err == nil && (v.answer.status == http.StatusBadGateway || v.answer.status == http.StatusGatewayTimeout) ||
			v.err != nil && strings.Contains(v.err.Error(), "EOF") // cut in the middle of the answer
	})
}

// compare holds the records against what Podman has: exactly the same, on every
// node; and every app answers at both gateways.
func (w *faultWorld) compare() {
	w.t.Helper()
	for _, m := range w.gateways {
		client := m.client()
		for _, app := range faultNames() {
			m.get(client, app, "/")
		}
	}
	m := w.gateways[0]
	for _, n := range w.nodes {
		var there, recorded []string
		for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(200 * time.Millisecond) {
			if there, recorded = n.containers(), m.recorded(n.name); slices.Equal(there, recorded) {
				break
			}
			if time.Now().After(deadline) {
				w.t.Errorf("%s has %v, recorded are %v", n.name, there, recorded)
				break
			}
		}
	}
}
