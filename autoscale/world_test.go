package autoscale

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// world is a Controller over a store in memory and containers that are test
// servers: everything that can go wrong with either can be set.
type world struct {
	t       *testing.T
	c       *Controller
	catalog *router.Catalog
	store   *memoryStore
	rt      *fakeRuntime
	cluster *fakeCluster
	ahead   atomic.Int64 // how far the Controller's clock is ahead
	rates   *fakeSignals
	journal *fakeJournal
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, catalog: router.NewCatalog(), journal: &fakeJournal{}, cluster: &fakeCluster{gateways: []string{"g1"}, asked: make(chan struct{}, 1000)}, rates: &fakeSignals{}}
	w.store = &memoryStore{catalog: w.catalog, apps: map[string]router.AppState{}}
	w.rt = newFakeRuntime(t)
	w.cluster.autoAck = true
	w.c = New(Options{
		Gateway: "g1", Catalog: w.catalog, Store: w.store, Runtime: w.rt,
		Signals: w.rates, Cluster: w.cluster, Journal: w.journal,
		Now: func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) },
	})
	t.Cleanup(w.c.Close)
	return w
}

// app deploys an app and fails the test where that fails.
func (w *world) app(name string) router.AppState {
	w.t.Helper()
	st, err := w.deploy(name, "img1")
	if err != nil {
		w.t.Fatalf("deploy: %v", err)
	}
	return st
}

func (w *world) deploy(name, image string) (router.AppState, error) {
	return w.c.Deploy(w.t.Context(), router.Deploy{
		App: name, By: "tester", Release: router.Release{Image: image, Run: router.DefaultRun(), Note: "push"},
		Scale: map[string]string{"wake_deadline": "2s"},
	}, func(router.DeployStep) {})
}

// put sets the state of an app's only instance, container and record.
func (w *world) put(app string, state router.InstanceState) string {
	w.t.Helper()
	id := ""
	_, err := w.store.Update(w.t.Context(), app, func(st *router.AppState) error {
		if len(st.Instances) != 1 {
			w.t.Fatalf("%d instances, want 1", len(st.Instances))
		}
		in := &st.Instances[0]
		id = in.ID
		in.State, in.IdleSince, in.Claim = state, w.c.Now(), router.Claim{}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.rt.set(id, map[router.InstanceState]router.ContainerState{
		router.Ready: router.ContainerRunning, router.Frozen: router.ContainerPaused, router.Stopped: router.ContainerExited,
	}[state])
	return id
}

func (w *world) get(app string) *router.AppState {
	w.t.Helper()
	st, ok := w.catalog.Get(app)
	if !ok {
		w.t.Fatalf("no app %q", app)
	}
	return st
}

// await waits for a state of an app.
func (w *world) await(app, what string, done func(*router.AppState) bool) *router.AppState {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	st, err := w.catalog.Await(ctx, app, done)
	if err != nil {
		last, _ := w.catalog.Get(app)
		w.t.Fatalf("waiting until %s: %v; last seen %+v", what, err, last)
	}
	return st
}

// awaitDrain waits until an instance drains and returns the DrainID.
func (w *world) awaitDrain(app, id string) string {
	w.t.Helper()
	st := w.await(app, "it drains", func(st *router.AppState) bool {
		in, _ := st.Instance(id)
		return in.State == router.Draining
	})
	in, _ := st.Instance(id)
	return in.DrainID()
}

// memoryStore is a Store without Redis.
type memoryStore struct {
	mu      sync.Mutex
	catalog *router.Catalog
	apps    map[string]router.AppState
	version uint64
	down    error
	full    map[string]*router.FullError // nodes that take no new instance
	hang    chan struct{}                // Update waits for it before all else
	deaf    bool                         // Update writes, and its answer is lost
	updates int                          // calls of Update
}

func (s *memoryStore) Load(_ context.Context, app string) (router.AppState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return router.AppState{}, s.down
	}
	st, ok := s.apps[app]
	if !ok {
		return st, router.Errorf(router.CodeNotFound, "no app %q", app)
	}
	return st.Clone(), nil
}

func (s *memoryStore) Update(ctx context.Context, app string, fn func(*router.AppState) error) (router.AppState, error) {
	s.mu.Lock()
	s.updates++
	hang, deaf := s.hang, s.deaf
	s.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return router.AppState{}, ctx.Err()
		}
	}
	st, err := s.update(app, fn)
	if deaf && err == nil {
		return router.AppState{}, router.Errorf(router.CodeUnavailable, "Redis does not answer")
	}
	return st, err
}

func (s *memoryStore) update(app string, fn func(*router.AppState) error) (router.AppState, error) {
	s.mu.Lock()
	if s.down != nil {
		defer s.mu.Unlock()
		return router.AppState{}, s.down
	}
	was := s.apps[app].Clone()
	st := was.Clone()
	st.App.Name = app
	if err := fn(&st); err != nil {
		s.mu.Unlock()
		return router.AppState{}, err
	}
	for _, in := range st.Instances {
		if _, known := was.Instance(in.ID); !known && s.full[in.Node] != nil {
			s.mu.Unlock()
			return router.AppState{}, router.Errorf(router.CodeExhausted, "%w", s.full[in.Node])
		}
	}
	if was.Version > 0 && reflect.DeepEqual(was, st) {
		s.mu.Unlock()
		return st, nil
	}
	s.version++
	st.Version = s.version
	if st.Deleted {
		delete(s.apps, app)
	} else {
		s.apps[app] = st
	}
	s.mu.Unlock()
	s.catalog.Apply(st)
	return st, nil
}

// pause makes Update wait until resume is called.
func (s *memoryStore) pause() (resume func()) {
	hang := make(chan struct{})
	s.mu.Lock()
	s.hang = hang
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		s.hang = nil
		s.mu.Unlock()
		close(hang)
	}
}

// lose makes Update write and its answers get lost, or ends that.
func (s *memoryStore) lose(deaf bool) {
	s.mu.Lock()
	s.deaf = deaf
	s.mu.Unlock()
}

func (s *memoryStore) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.updates
}

func (s *memoryStore) fail(err error) {
	s.mu.Lock()
	s.down = err
	s.mu.Unlock()
}

// fakeRuntime keeps containers as entries in a map; one HTTP server answers
// for all of them.
type fakeRuntime struct {
	failOnce   map[string]error // the next call of a name
	mu         sync.Mutex
	addr       string
	containers map[string]*router.Container
	calls      []string         // "create ID", …
	fail       map[string]error // by call name
	hold       chan struct{}    // Start waits for it where set
	tail       string
	events     chan router.ContainerEvent
	nodes      []router.Node
	silent     map[string]chan struct{} // nodes whose engine takes calls and does not answer; each call is told
}

func newFakeRuntime(t *testing.T) *fakeRuntime {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) }))
	t.Cleanup(srv.Close)
	return &fakeRuntime{addr: srv.Listener.Addr().String(), containers: map[string]*router.Container{}, fail: map[string]error{}, events: make(chan router.ContainerEvent, 16), nodes: []router.Node{fakeNode("n1")}}
}

// mute makes a node's engine take calls and not answer them; each is told on
// what it returns.
func (r *fakeRuntime) mute(node string) chan struct{} {
	told := make(chan struct{}, 100)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent = map[string]chan struct{}{node: told}
	return told
}

// answer waits for a node that does not, until ctx ends.
func (r *fakeRuntime) answer(ctx context.Context, node string) error {
	r.mu.Lock()
	told := r.silent[node]
	r.mu.Unlock()
	if told == nil {
		return nil
	}
	told <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

func (r *fakeRuntime) call(name, id string) error {
	r.calls = append(r.calls, name+" "+id)
	if err, ok := r.failOnce[name]; ok {
		delete(r.failOnce, name)
		return err
	}
	return r.fail[name]
}

func (r *fakeRuntime) count(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, c := range r.calls {
		if strings.HasPrefix(c, name+" ") {
			n++
		}
	}
	return n
}

func (r *fakeRuntime) set(id string, s router.ContainerState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.containers[id]; k != nil {
		k.State = s
	}
}

func (r *fakeRuntime) move(name string, in router.Instance, to router.ContainerState) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.call(name, in.ID); err != nil {
		return err
	}
	k := r.containers[in.ID]
	if k == nil {
		return router.Errorf(router.CodeNotFound, "no container")
	}
	k.State = to
	return nil
}

func (r *fakeRuntime) Create(ctx context.Context, in router.Instance, _ router.Release) (string, error) {
	if err := r.answer(ctx, in.Node); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fail["create at "+in.Node]; err != nil {
		return "", err
	}
	if err := r.call("create", in.ID); err != nil {
		return "", err
	}
	r.containers[in.ID] = &router.Container{ID: "c-" + in.ID, Node: in.Node, Instance: in.ID, App: in.App, Release: in.Release, State: router.ContainerCreated, Addr: r.addr}
	return "c-" + in.ID, nil
}

func (r *fakeRuntime) Start(ctx context.Context, in router.Instance) (string, error) {
	if err := r.answer(ctx, in.Node); err != nil {
		return "", err
	}
	r.mu.Lock()
	hold := r.hold
	r.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	if err := r.move("start", in, router.ContainerRunning); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.addr, nil
}

func (r *fakeRuntime) Freeze(_ context.Context, in router.Instance) error {
	return r.move("freeze", in, router.ContainerPaused)
}

func (r *fakeRuntime) Thaw(ctx context.Context, in router.Instance) error {
	if err := r.answer(ctx, in.Node); err != nil {
		return err
	}
	return r.move("thaw", in, router.ContainerRunning)
}

func (r *fakeRuntime) Stop(_ context.Context, in router.Instance, _ time.Duration) error {
	return r.move("stop", in, router.ContainerExited)
}

func (r *fakeRuntime) Remove(ctx context.Context, in router.Instance) error {
	if err := r.answer(ctx, in.Node); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.call("remove", in.ID); err != nil {
		return err
	}
	delete(r.containers, in.ID)
	return nil
}

func (r *fakeRuntime) Tail(context.Context, router.Instance, int) (string, error) { return r.tail, nil }

func (r *fakeRuntime) Inspect(_ context.Context, in router.Instance) (router.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.containers[in.ID]; k != nil {
		return *k, nil
	}
	return router.Container{}, router.Errorf(router.CodeNotFound, "no container")
}

func (r *fakeRuntime) Containers(_ context.Context, names ...string) (out []router.Container, answered []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.nodes {
		if !n.Down && (len(names) == 0 || slices.Contains(names, n.Name)) {
			answered = append(answered, n.Name)
		}
	}
	for _, k := range r.containers {
		if slices.Contains(answered, k.Node) {
			out = append(out, *k)
		}
	}
	return out, answered
}

func (r *fakeRuntime) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

func (r *fakeRuntime) Events(ctx context.Context, fn func(router.ContainerEvent)) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-r.events:
			fn(e)
		}
	}
}

func (r *fakeRuntime) Nodes() []*router.Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*router.Node, len(r.nodes))
	for i, n := range r.nodes {
		list[i] = &n
	}
	return list
}

func (r *fakeRuntime) Node(name string) (*router.Node, bool) {
	for _, n := range r.Nodes() {
		if n.Name == name {
			return n, true
		}
	}
	return nil, false
}

// fakeNode is a node that can do everything.
func fakeNode(name string) router.Node {
	return router.Node{Name: name, Facts: router.NodeFacts{Freeze: true, Memory: 8 << 30}}
}

// lose makes a node unreachable; back ends that.
func (r *fakeRuntime) lose(name string) { r.setLost(name, true) }
func (r *fakeRuntime) back(name string) { r.setLost(name, false) }

// down makes a node's engine known not to answer.
func (r *fakeRuntime) down(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.nodes {
		if r.nodes[i].Name == name {
			r.nodes[i].Down = true
		}
	}
}

func (r *fakeRuntime) cordon(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.nodes {
		if r.nodes[i].Name == name {
			r.nodes[i].Cordoned = true
		}
	}
}

func (r *fakeRuntime) setLost(name string, lost bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.nodes {
		if r.nodes[i].Name == name {
			r.nodes[i].Lost, r.nodes[i].Down = lost, lost
		}
	}
}

func (r *fakeRuntime) PruneImages(context.Context, []string) error { return nil }

func (r *fakeRuntime) DropLogs(string) error { return nil }

// deadAddr is an address where nothing listens.
func deadAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

type fakeSignals struct {
	mu    sync.Mutex
	rates map[int64]map[string]router.Sample
}

func (f *fakeSignals) Rates(_ context.Context, _, _ time.Time) (map[int64]map[string]router.Sample, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rates, nil
}

func (f *fakeSignals) LastActive(context.Context, []string) (map[string]time.Time, error) {
	return nil, nil
}

type fakeCluster struct {
	mu       sync.Mutex
	gateways []string
	acks     map[string][]string
	autoAck  bool          // every gateway lets go at once
	asked    chan struct{} // one for every look
	cleared  func()        // called by ClearAcks; may be nil
}

func (f *fakeCluster) Lead(context.Context) (bool, error) { return true, nil }

func (f *fakeCluster) Gateways(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case f.asked <- struct{}{}:
	default:
	}
	return slices.Clone(f.gateways), nil
}

func (f *fakeCluster) DrainAcks(_ context.Context, instance string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.autoAck {
		return slices.Clone(f.gateways), nil
	}
	return slices.Clone(f.acks[instance]), nil
}

func (f *fakeCluster) ClearAcks(context.Context, string) error {
	f.mu.Lock()
	cleared := f.cleared
	f.mu.Unlock()
	if cleared != nil {
		cleared()
	}
	return nil
}

func (f *fakeCluster) ack(instance string, gateways ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.acks == nil {
		f.acks = map[string][]string{}
	}
	f.acks[instance] = append(f.acks[instance], gateways...)
}

type fakeJournal struct {
	mu     sync.Mutex
	events []router.Event
}

func (f *fakeJournal) Record(_ context.Context, _ string, events ...router.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, events...)
	return nil
}
