package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

// follower is a gateway that watches: what it was told, and the Catalog that
// comes of it.
type follower struct {
	mu      sync.Mutex
	told    []router.AppState
	synced  int
	catalog *router.Catalog
}

// watch starts a follower that stops with the test. The hooks are called
// before each record is told.
func watch(t *testing.T, s *Store, hooks ...func(router.AppState)) *follower {
	t.Helper()
	f := &follower{catalog: router.NewCatalog()}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- s.Watch(ctx, func(st router.AppState) {
			for _, hook := range hooks {
				hook(st)
			}
			f.mu.Lock()
			f.told = append(f.told, st)
			f.mu.Unlock()
			f.catalog.Apply(st)
		}, func() {
			f.mu.Lock()
			f.synced++
			f.mu.Unlock()
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended with %v", err)
		}
	})
	f.awaitSync(t, 1)
	return f
}

func (f *follower) awaitSync(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("synced %d times", n), func() bool { return f.syncs() >= n })
}

func (f *follower) syncs() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.synced
}

// of is everything told about one app.
func (f *follower) of(app string) []router.AppState {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.told), func(st router.AppState) bool { return st.App.Name != app })
}

// await waits until the follower's Catalog has what is stored.
func (f *follower) await(t *testing.T, app, owner string) {
	t.Helper()
	eventually(t, app+" is owned by "+owner, func() bool {
		st, ok := f.catalog.Get(app)
		return ok && st.App.Owner == owner
	})
}

func (f *follower) awaitGone(t *testing.T, app string) {
	t.Helper()
	eventually(t, app+" is gone", func() bool { _, ok := f.catalog.Get(app); return !ok })
}

func own(t *testing.T, s *Store, app, owner string) router.AppState {
	t.Helper()
	return update(t, s, app, func(st *router.AppState) error { st.App.Owner = owner; return nil })
}

func remove(t *testing.T, s *Store, app string) {
	t.Helper()
	update(t, s, app, func(st *router.AppState) error { st.Deleted = true; return nil })
}

func TestWatch(t *testing.T) {
	srv := startServer(t)
	writer := openStore(t, srv)
	own(t, writer, "old", "a")
	own(t, writer, "kept", "a")
	f := watch(t, openStore(t, srv))
	if _, ok := f.catalog.Get("old"); !ok || len(f.catalog.All()) != 2 {
		t.Fatal("synced before all apps were told")
	}

	last := own(t, writer, "old", "b")
	f.await(t, "old", "b")
	told := f.of("old")
	if told[len(told)-1].Version != last.Version {
		t.Fatalf("told version %d, written was %d", told[len(told)-1].Version, last.Version)
	}

	remove(t, writer, "old")
	f.awaitGone(t, "old")
	if told := f.of("old"); !told[len(told)-1].Deleted {
		t.Fatal("the removal was not told as one")
	}
	own(t, writer, "old", "c") // made again
	f.await(t, "old", "c")

	for i := range 200 {
		own(t, writer, "kept", fmt.Sprint(i))
	}
	f.await(t, "kept", "199")
	told = f.of("kept")
	if !slices.IsSortedFunc(told, func(a, b router.AppState) int { return int(a.Version) - int(b.Version) }) {
		t.Fatal("told out of order")
	}
	if f.syncs() != 1 {
		t.Fatalf("read everything %d times", f.syncs())
	}
}

func TestWatchReadsBatches(t *testing.T) {
	srv := startServer(t)
	writer := openStore(t, srv)
	for i := range loadBatch + 10 {
		own(t, writer, fmt.Sprintf("app-%d", i), "a")
	}
	f := watch(t, openStore(t, srv))
	if n := len(f.catalog.All()); n != loadBatch+10 {
		t.Fatalf("%d apps were told", n)
	}
}

// One damaged record must not hide all the others.
func TestWatchPassesOverADamagedRecord(t *testing.T) {
	srv := startServer(t)
	writer := openStore(t, srv)
	own(t, writer, "bad", "a")
	own(t, writer, "good", "a")
	if err := writer.client.HSet(testContext(t), writer.keys.app("bad"), fieldApp, "no record").Err(); err != nil {
		t.Fatal(err)
	}
	f := watch(t, openStore(t, srv))
	f.await(t, "good", "a")
	own(t, writer, "good", "b")
	f.await(t, "good", "b")
	if len(f.of("bad")) != 0 {
		t.Fatal("the damaged record was told")
	}
}

// While a Watch does not read, more is written than the stream keeps.
func TestWatchAfterTheStreamWasTrimmed(t *testing.T) {
	srv := startServer(t)
	writer := openStore(t, srv)
	own(t, writer, "doomed", "a")
	own(t, writer, "kept", "a")
	busy, goOn := make(chan struct{}), make(chan struct{})
	f := watch(t, openStore(t, srv), func(st router.AppState) {
		if st.App.Owner == "busy" {
			close(busy)
			<-goOn
		}
	})
	own(t, writer, "kept", "busy")
	<-busy
	remove(t, writer, "doomed")
	own(t, writer, "new", "a")
	if err := writer.client.XTrimMaxLen(testContext(t), writer.keys.changes(), 0).Err(); err != nil {
		t.Fatal(err)
	}
	own(t, writer, "kept", "b")
	close(goOn)
	f.await(t, "kept", "b")
	f.await(t, "new", "a")
	f.awaitGone(t, "doomed")
	f.awaitSync(t, 2)
}

// Redis dies without having brought its last writes to its disk, and others
// write before a Watch is back: versions go backwards.
func TestWatchAfterRedisLostWrites(t *testing.T) {
	srv := startServer(t)
	writer, reader := openStore(t, srv), openStore(t, srv)
	ctx := testContext(t)
	own(t, writer, "reverted", "a")
	f := watch(t, reader)
	before, err := writer.client.HGetAll(ctx, writer.keys.app("reverted")).Result()
	if err != nil {
		t.Fatal(err)
	}
	version, err := writer.client.Get(ctx, writer.keys.version()).Result()
	if err != nil {
		t.Fatal(err)
	}
	own(t, writer, "reverted", "lost")
	own(t, writer, "made", "lost")
	f.await(t, "reverted", "lost")
	f.await(t, "made", "lost")

	// What a Redis with older data looks like.
	k := writer.keys
	pipe := writer.client.TxPipeline()
	pipe.Del(ctx, k.app("made"), k.changes())
	pipe.HDel(ctx, k.apps(), "made")
	pipe.Del(ctx, k.app("reverted"))
	pipe.HSet(ctx, k.app("reverted"), before)
	pipe.Set(ctx, k.version(), version, 0)
	if _, err := pipe.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	f.await(t, "reverted", "a") // though its Catalog held a newer one
	f.awaitGone(t, "made")

	// A gateway that never saw the lost writes goes on writing.
	fresh := openStore(t, srv)
	own(t, fresh, "made", "b")
	f.await(t, "made", "b")
	own(t, fresh, "reverted", "b")
	f.await(t, "reverted", "b")
}

func TestWatchAfterRedisWasEmptied(t *testing.T) {
	srv := startServer(t)
	writer := openStore(t, srv)
	own(t, writer, "one", "a")
	f := watch(t, openStore(t, srv))
	if err := writer.client.FlushAll(testContext(t)).Err(); err != nil {
		t.Fatal(err)
	}
	f.awaitGone(t, "one")
	own(t, openStore(t, srv), "one", "b")
	f.await(t, "one", "b")
}

func TestWatchAfterRedisWasKilled(t *testing.T) {
	srv := startServer(t)
	writer := openStore(t, srv)
	own(t, writer, "one", "a")
	f := watch(t, openStore(t, srv))
	signal(t, serverPID(t, writer), syscall.SIGKILL)
	f.awaitSync(t, 2)
	eventually(t, "a write after the restart", func() bool {
		_, err := writer.Update(testContext(t), "one", func(st *router.AppState) error { st.App.Owner = "b"; return nil })
		return err == nil
	})
	f.await(t, "one", "b")
}

func TestWatchEndsWithTheStore(t *testing.T) {
	s := newStore(t)
	synced, done := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		done <- s.Watch(context.Background(), func(router.AppState) {}, func() { synced <- struct{}{} })
	}()
	<-synced
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Fatal("ended without an error")
	}
}
