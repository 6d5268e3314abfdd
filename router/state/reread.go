package state

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

// reread tells every app, and the removal of those told before that are gone.
func (w *watcher) reread(ctx context.Context) error {
	// The version comes first: what changes while the rest is read is told
	// again by the stream.
	version, err := w.version(ctx)
	if err != nil {
		return err
	}
	index, err := w.s.appIndex(ctx, w.client)
	if err != nil {
		return err
	}
	// The identity comes after the names: it says that they are to be believed.
	flushed, err := w.flushed(ctx)
	if err != nil {
		return err
	}
	if flushed {
		if err := w.refill(ctx); err != nil {
			return err
		}
		w.position = 0 // what was before says nothing of the versions now
		return w.reread(ctx)
	}
	// What has the version that was told is not read again: of very many apps,
	// few change while a connection is broken. Where Redis has gone back to older
	// data, no version is to be relied upon.
	back := version < w.position
	names := make([]string, 0, len(index))
	for name, stored := range index {
		if back || w.applied[name] != stored || w.s.seen.app(name) > stored {
			names = append(names, name)
		}
	}
	// Those that are not in the index are looked at all the same: one may
	// have been made again in the meantime. Their removal gets a version above
	// every one that they had, and one made later gets a higher one still.
	removed := map[string]uint64{}
	for name := range w.applied {
		if _, present := index[name]; !present {
			removed[name] = max(version, w.s.seen.app(name)+1)
			w.s.seen.note(name, removed[name])
			names = append(names, name)
		}
	}
	var gone []string
	err = w.loadAll(ctx, names, func(name string, l loaded) error {
		if l.there {
			return w.tell(ctx, name, l)
		}
		if removed[name] > 0 {
			gone = append(gone, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(gone) > 0 { // not because Redis was emptied just now
		if flushed, err := w.flushed(ctx); err != nil || flushed {
			return errors.Join(err, errFlushed)
		}
	}
	for _, name := range gone {
		w.remove(name, removed[name])
	}
	w.position = version
	return nil
}

// appIndex is every app with its version. It is read bit by bit: one answer with
// all of very many apps would keep everybody else waiting.
func (s *Store) appIndex(ctx context.Context, client redis.UniversalClient) (map[string]uint64, error) {
	index := map[string]uint64{}
	for cursor := uint64(0); ; {
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		page, next, err := client.HScan(cctx, s.keys.apps(), cursor, "", indexBatch).Result()
		cancel()
		if err != nil {
			return nil, err
		}
		for i := 0; i+1 < len(page); i += 2 {
			version, err := strconv.ParseUint(page[i+1], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("the index has %q as the version of app %s", page[i+1], page[i])
			}
			index[page[i]] = version
		}
		if cursor = next; cursor == 0 {
			return index, nil
		}
	}
}

// appHashes reads apps in one round trip.
func (s *Store) appHashes(ctx context.Context, client redis.UniversalClient, names []string) ([]map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	replies := make([]*redis.MapStringStringCmd, len(names))
	_, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, name := range names {
			replies[i] = p.HGetAll(ctx, s.keys.app(name))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	hashes := make([]map[string]string, len(names))
	for i, r := range replies {
		hashes[i] = r.Val()
	}
	return hashes, nil
}

// loaded is what was found of an app.
type loaded struct {
	there bool
	st    router.AppState
	err   error // it is there, and cannot be read
}

// loadAll reads apps and calls fn for each, from the calling goroutine. While fn
// is at it, the next ones are read and decoded, by all cores: of very many apps,
// that is what a start takes its time for.
func (w *watcher) loadAll(ctx context.Context, names []string, fn func(string, loaded) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type batch struct {
		names []string
		apps  []loaded
		err   error
	}
	batches := make(chan batch, 1)
	go func() { // ends with ctx, or after the last batch
		defer close(batches)
		for some := range slices.Chunk(names, loadBatch) {
			hashes, err := w.s.appHashes(ctx, w.client, some)
			b := batch{names: some, err: err}
			if err == nil {
				b.apps = w.decodeAll(some, hashes)
			}
			select {
			case batches <- b:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for b := range batches {
		if b.err != nil {
			return b.err
		}
		for i, name := range b.names {
			if err := fn(name, b.apps[i]); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func (w *watcher) decodeAll(names []string, hashes []map[string]string) []loaded {
	apps := make([]loaded, len(names))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(names)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(names)); i = next.Add(1) - 1 {
				apps[i] = w.decode(names[i], hashes[i])
			}
		})
	}
	workers.Wait()
	return apps
}

func (w *watcher) decode(name string, hash map[string]string) (l loaded) {
	if l.there = len(hash) > 0; l.there {
		l.st, l.err = decodeState(name, hash, &w.s.releases)
	}
	return l
}
