package state

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// keeper is a gateway that writes back what it knows after Redis was emptied.
func keeper(t *testing.T, s *Store, before ...func()) *follower {
	t.Helper()
	if _, err := s.Installation(testContext(t)); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var f *follower
	s.OnFlush(func(ctx context.Context) error {
		for _, fn := range before {
			fn()
		}
		mu.Lock()
		catalog := f.catalog
		mu.Unlock()
		var states []router.AppState
		for _, st := range catalog.All() {
			states = append(states, *st)
		}
		_, err := s.Rebuild(ctx, states)
		return err
	})
	mu.Lock()
	defer mu.Unlock()
	f = watch(t, s)
	return f
}

func flushAll(t *testing.T, s *Store) {
	t.Helper()
	if err := s.client.FlushAll(testContext(t)).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestFlushIsWrittenBack(t *testing.T) {
	srv := startServer(t)
	a, b := openStore(t, srv), openStore(t, srv)
	ctx := testContext(t)
	fa, fb := keeper(t, a), keeper(t, b)
	var before []router.AppState
	for _, app := range []string{"one", "two", "three"} {
		before = append(before, update(t, a, app, func(st *router.AppState) error {
			st.App.Policy = router.DefaultPolicy()
			st.App.Owner = "me"
			st.App.Domains = []string{app + ".example.com"}
			st.Releases = []router.Release{{Number: 1, Image: "sha256:" + app, Run: router.Run{Port: 8080, Reserve: 10 * mib}}}
			st.Instances = []router.Instance{{ID: "i-" + app, App: app, Release: 1, Node: "n1", State: router.Ready, Addr: "10.0.0.1:8080"}}
			return nil
		}))
	}
	if err := errors.Join(
		a.PutToken(ctx, router.Token{ID: "t1", Name: "laptop", Hash: "abc"}),
		a.PutNode(ctx, router.Node{Name: "n1", URL: "unix:///run/n1.sock"}),
		a.Certificates().Store(ctx, "acme/ca/users/key", []byte("key")),
	); err != nil {
		t.Fatal(err)
	}
	installation, err := a.Installation(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*follower{fa, fb} {
		for _, app := range []string{"one", "two", "three"} {
			f.await(t, app, "me")
		}
	}
	for _, s := range []*Store{a, b} {
		eventually(t, "the tokens are remembered", func() bool {
			s.kept.mu.Lock()
			defer s.kept.mu.Unlock()
			return len(s.kept.shelves[s.keys.tokens()]) == 1 && len(s.kept.shelves[s.keys.nodes()]) == 1 && len(s.kept.shelves[s.keys.certValues()]) == 1
		})
	}

	flushAll(t, a)

	third := openStore(t, srv)
	eventually(t, "the identity is back", func() bool {
		id, err := third.client.Get(ctx, third.keys.installation()).Result()
		return err == nil && id == installation
	})
	for _, was := range before {
		now, err := third.Load(ctx, was.App.Name)
		if err != nil {
			t.Fatal(err)
		}
		if now.Version <= was.Version {
			t.Errorf("%s has version %d, not above %d", was.App.Name, now.Version, was.Version)
		}
		if len(now.Instances) != 1 || now.Instances[0].ID != was.Instances[0].ID || len(now.Releases) != 1 || !slices.Equal(now.App.Domains, was.App.Domains) {
			t.Errorf("%s came back as %+v", was.App.Name, now)
		}
	}
	if tokens, err := third.Tokens(ctx); err != nil || len(tokens) != 1 || tokens[0].Hash != "abc" {
		t.Errorf("tokens %v, %v", tokens, err)
	}
	if nodes, err := third.Nodes(ctx); err != nil || len(nodes) != 1 {
		t.Errorf("nodes %v, %v", nodes, err)
	}
	wantReserved(t, third, "n1", 30*mib)
	if key, err := third.Certificates().Load(ctx, "acme/ca/users/key"); err != nil || string(key) != "key" {
		t.Errorf("ACME account %q, %v", key, err)
	}
	if _, err := third.Update(ctx, "thief", func(st *router.AppState) error { st.App.Domains = []string{"one.example.com"}; return nil }); router.CodeOf(err) != router.CodeConflict {
		t.Errorf("a hostname could be taken over: %v", err)
	}

	// All goes on, and nobody was told that an app is gone.
	own(t, b, "one", "you")
	fa.await(t, "one", "you")
	fb.await(t, "one", "you")
	for _, f := range []*follower{fa, fb} {
		for _, app := range []string{"one", "two", "three"} {
			if slices.ContainsFunc(f.of(app), func(st router.AppState) bool { return st.Deleted }) {
				t.Errorf("%s was told as deleted", app)
			}
		}
	}
}

// What is missing only because Redis was emptied must not be taken for gone.
func TestFlushedRedisDeniesNothing(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	release := make(chan struct{})
	var once sync.Once
	open := func() { once.Do(func() { close(release) }) }
	defer open()
	f := keeper(t, s, func() { <-release })
	own(t, s, "app", "me")
	f.await(t, "app", "me")
	if err := s.PutToken(ctx, router.Token{ID: "t1"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token is remembered", func() bool {
		s.kept.mu.Lock()
		defer s.kept.mu.Unlock()
		return len(s.kept.shelves[s.keys.tokens()]) == 1
	})
	flushAll(t, s)

	for name, read := range map[string]func() error{
		"an app":   func() error { _, err := s.Load(ctx, "app"); return err },
		"a change": func() error { _, err := s.Update(ctx, "app", func(*router.AppState) error { return nil }); return err },
		"a token":  func() error { _, err := s.Token(ctx, "t1"); return err },
		"tokens":   func() error { _, err := s.Tokens(ctx); return err },
		"nodes":    func() error { _, err := s.Nodes(ctx); return err },
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, read(), router.CodeUnavailable) })
	}
	open()
	eventually(t, "the token is back", func() bool { _, err := s.Token(ctx, "t1"); return err == nil })
	if _, err := s.Load(ctx, "app"); err != nil {
		t.Fatal(err)
	}
}

func TestRebuildRepeated(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	st := create(t, s, "app", "app.example.com")
	mine := own(t, s, "app", "me")
	if restored, err := s.Rebuild(ctx, []router.AppState{st}); err != nil || restored != 0 {
		t.Fatalf("restored %d, %v", restored, err)
	}
	if now, err := s.Load(ctx, "app"); err != nil || now.Version != mine.Version {
		t.Fatalf("an older record replaced what is stored: %+v, %v", now, err)
	}
	// A hostname that somebody else has by now stays there.
	remove(t, s, "app")
	create(t, s, "other", "app.example.com")
	if restored, err := s.Rebuild(ctx, []router.AppState{st}); err != nil || restored != 1 {
		t.Fatalf("restored %d, %v", restored, err)
	}
	if now, err := s.Load(ctx, "app"); err != nil || len(now.App.Domains) != 0 {
		t.Fatalf("domains %v, %v", now.App.Domains, err)
	}
}

// A gateway that starts on an emptied Redis makes an identity, which another
// gateway that knows more replaces: the first one is told.
func TestStartedOnAFlushedRedis(t *testing.T) {
	srv := startServer(t)
	old := openStore(t, srv)
	release := make(chan struct{})
	f := keeper(t, old, func() { <-release })
	own(t, old, "app", "me")
	f.await(t, "app", "me")
	right, err := old.Installation(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	flushAll(t, old)
	fresh := openStore(t, srv)
	if id, err := fresh.Installation(testContext(t)); err != nil || id == right {
		t.Fatalf("%s, %v", id, err)
	}
	g := keeper(t, fresh)
	close(release)
	select {
	case <-fresh.Replaced():
	case <-time.After(limit):
		t.Fatal("it is never told")
	}
	g.await(t, "app", "me")
	if id, err := fresh.Installation(testContext(t)); err != nil || id != right {
		t.Errorf("%s, %v; want %s", id, err, right)
	}
	select {
	case <-old.Replaced():
		t.Error("so is the one that was right")
	default:
	}
}

// While another gateway writes back, what is there is a part: it is not what is
// remembered.
func TestPartIsNotRemembered(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	if _, err := s.Installation(ctx); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"n1", "n2"} {
		if err := s.PutNode(ctx, router.Node{Name: name, URL: "unix:///" + name}); err != nil {
			t.Fatal(err)
		}
	}
	w := &watcher{s: s, client: s.client}
	if flushed, err := w.keep(ctx); flushed || err != nil {
		t.Fatal(flushed, err)
	}
	// As in the middle of a Rebuild: the identity comes last.
	if err := errors.Join(s.client.Del(ctx, s.keys.installation()).Err(), s.client.HDel(ctx, s.keys.nodes(), "n2").Err()); err != nil {
		t.Fatal(err)
	}
	if flushed, err := w.keep(ctx); !flushed || err != nil {
		t.Errorf("flushed: %v, %v", flushed, err)
	}
	if n := len(s.kept.shelves[s.keys.nodes()]); n != 2 {
		t.Errorf("%d nodes are remembered, want 2", n)
	}
}
