package state

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/certmagic"
)

// TestCertificateStorage runs over ours and over certmagic's own file storage,
// which says what is expected.
func TestCertificateStorage(t *testing.T) {
	for name, storage := range map[string]func(*testing.T) certmagic.Storage{
		"Redis": func(t *testing.T) certmagic.Storage { t.Helper(); return newStore(t).Certificates() },
		"file":  func(t *testing.T) certmagic.Storage { t.Helper(); return &certmagic.FileStorage{Path: t.TempDir()} },
	} {
		t.Run(name, func(t *testing.T) { testStorage(t, storage(t)) })
	}
}

func testStorage(t *testing.T, storage certmagic.Storage) {
	t.Helper()
	ctx := testContext(t)
	store := func(key, value string) {
		t.Helper()
		if err := storage.Store(ctx, key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	list := func(prefix string, recursive bool, want ...string) {
		t.Helper()
		got, err := storage.List(ctx, prefix, recursive)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("List(%q, %v) = %q, %v; want %q", prefix, recursive, got, err, want)
		}
	}
	missing := func(err error) {
		t.Helper()
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("error %v, want fs.ErrNotExist", err)
		}
	}
	store("certs/ca/a.com/a.key", "key of a")
	store("certs/ca/a.com/a.crt", "old")
	store("certs/ca/a.com/a.crt", "\x00\xffnew")
	store("certs/ca/b.com/b.crt", "crt of b")
	store("certs/ca-2/c.com/c.crt", "crt of c")
	store("certs/ca0", "a neighbour in the order")

	if v, err := storage.Load(ctx, "certs/ca/a.com/a.crt"); err != nil || string(v) != "\x00\xffnew" {
		t.Fatalf("%q %v", v, err)
	}
	_, err := storage.Load(ctx, "certs/none")
	missing(err)

	list("certs/ca", false, "certs/ca/a.com", "certs/ca/b.com")
	list("certs/ca", true, "certs/ca/a.com", "certs/ca/a.com/a.crt", "certs/ca/a.com/a.key", "certs/ca/b.com", "certs/ca/b.com/b.crt")
	list("certs", false, "certs/ca", "certs/ca-2", "certs/ca0")
	list("certs/ca/a.com", false, "certs/ca/a.com/a.crt", "certs/ca/a.com/a.key")
	list("", false, "certs")
	_, err = storage.List(ctx, "none", true)
	missing(err)

	info, err := storage.Stat(ctx, "certs/ca/a.com/a.key")
	if err != nil || !info.IsTerminal || info.Size != 8 || info.Modified.IsZero() || info.Key != "certs/ca/a.com/a.key" {
		t.Fatalf("%+v %v", info, err)
	}
	info, err = storage.Stat(ctx, "certs/ca")
	if err != nil || info.IsTerminal {
		t.Fatalf("%+v %v", info, err)
	}
	_, err = storage.Stat(ctx, "certs/c")
	missing(err)
	for key, want := range map[string]bool{"certs/ca": true, "certs/ca/a.com/a.crt": true, "certs/c": false, "cert": false} {
		if storage.Exists(ctx, key) != want {
			t.Errorf("Exists(%q) is not %v", key, want)
		}
	}

	for _, key := range []string{"certs/ca", "certs/ca", "certs/none"} {
		if err := storage.Delete(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	list("certs", true, "certs/ca-2", "certs/ca-2/c.com", "certs/ca-2/c.com/c.crt", "certs/ca0")
	_, err = storage.Load(ctx, "certs/ca/a.com/a.crt")
	missing(err)
}

func TestCertificateLock(t *testing.T) {
	srv := startServer(t)
	a, b := openStore(t, srv).Certificates(), openStore(t, srv).Certificates()
	ctx := testContext(t)

	t.Run("one at a time", func(t *testing.T) {
		var inside atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				storage := []certmagic.Storage{a, b}[i%2]
				if err := storage.Lock(ctx, "issue_a.com"); err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d are inside", n)
				}
				inside.Add(-1)
				if err := storage.Unlock(ctx, "issue_a.com"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})

	t.Run("trying", func(t *testing.T) {
		for i, try := range []struct {
			storage certmagic.Storage
			want    bool
		}{{a, true}, {b, false}, {a, false}} {
			ok, err := try.storage.(certmagic.TryLocker).TryLock(ctx, "try")
			if err != nil || ok != try.want {
				t.Fatalf("try %d: %v %v", i, ok, err)
			}
		}
		if err := b.Unlock(ctx, "try"); err == nil {
			t.Fatal("b unlocked what a holds")
		}
		if err := a.Unlock(ctx, "try"); err != nil {
			t.Fatal(err)
		}
		if ok, err := b.(certmagic.TryLocker).TryLock(ctx, "try"); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if err := b.Unlock(ctx, "try"); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("waiting ends with its context", func(t *testing.T) {
		if err := a.Lock(ctx, "held"); err != nil {
			t.Fatal(err)
		}
		cctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- b.Lock(cctx, "held") }()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if err := a.Unlock(ctx, "held"); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("a holder that died", func(t *testing.T) {
		dead := openStore(t, srv)
		if err := dead.Certificates().Lock(ctx, "orphan"); err != nil {
			t.Fatal(err)
		}
		if err := dead.Close(); err != nil { // without Unlock: the renewal ends with the Store
			t.Fatal(err)
		}
		ttl := a.(*certificates).s.client.PTTL(ctx, a.(*certificates).s.keys.certLock("orphan")).Val()
		if ttl <= 0 || ttl > lockTTL {
			t.Fatalf("the lock stays for %v", ttl)
		}
	})

	t.Run("a lock lost to another is not unlocked", func(t *testing.T) {
		if err := a.Lock(ctx, "lost"); err != nil {
			t.Fatal(err)
		}
		s := a.(*certificates).s
		if err := s.client.Set(ctx, s.keys.certLock("lost"), "another's", lockTTL).Err(); err != nil {
			t.Fatal(err)
		}
		if err := a.Unlock(ctx, "lost"); err != nil {
			t.Fatal(err)
		}
		if v := s.client.Get(ctx, s.keys.certLock("lost")).Val(); v != "another's" {
			t.Fatalf("the other's lock is now %q", v)
		}
	})
}
