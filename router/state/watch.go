package state

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

const (
	loadBatch   = 256 // apps read in one pipeline
	indexBatch  = 5000
	streamBatch = 512 // changes read at once
	minBackoff  = 50 * time.Millisecond
	maxBackoff  = 2 * time.Second
	maxSilence  = time.Second // the longest wait for a change before looking whether Redis was emptied
)

// Watch calls apply for every app there is, then synced, and from then on
// apply for every change, in the order of the changes. Of several changes to
// one app that come at once, only the last may be told. A removed app is told
// as a record with Deleted set. All calls come from the calling goroutine.
//
// When the connection was lost, or the stream no longer reaches back to where
// Watch was, or Redis lost its last writes, everything is read again: apps that
// are gone are told as deleted, and synced is called again. A record that
// cannot be read is logged and passed over.
//
// Watch has a connection of its own. It returns only when ctx ends or the
// Store is closed.
func (s *Store) Watch(ctx context.Context, apply func(router.AppState), synced func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()

	w := &watcher{s: s, apply: apply, synced: synced, applied: map[string]uint64{}}
	backoff := minBackoff
	for {
		err := w.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !w.down {
			s.log.Warn("lost the change stream; connecting again", "redis", s.label, "err", err)
			backoff, w.down = minBackoff, true
		}
		select {
		case <-time.After(backoff/2 + mathrand.N(backoff)):
		case <-ctx.Done():
			return ctx.Err()
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// watcher is the state of one Watch.
type watcher struct {
	s       *Store
	apply   func(router.AppState)
	synced  func()
	applied map[string]uint64 // what apply was told, and not told to be deleted

	client   redis.UniversalClient
	dials    atomic.Int64 // connections opened by client
	position uint64       // version up to which everything was told
	keptAt   time.Time    // when keep last read everything
	down     bool         // no session has got through since the last one broke
}

// session connects, reads everything and follows the stream until something
// breaks.
func (w *watcher) session(ctx context.Context) error {
	opts := *w.s.opts
	opts.PoolSize, opts.MaxRetries = 2, -1
	opts.OnConnect = func(context.Context, *redis.Conn) error {
		w.dials.Add(1)
		return nil
	}
	client := redis.NewUniversalClient(&opts)
	w.client = client
	// A blocking read does not notice that its context was cancelled.
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	defer func() {
		if stop() {
			_ = client.Close()
		}
	}()
	for {
		if _, err := w.version(ctx); err != nil { // opens the connection
			return err
		}
		dials := w.dials.Load()
		if err := w.reread(ctx); err != nil {
			return err
		}
		if w.down {
			w.s.log.Info("the change stream is back", "redis", w.s.label)
			w.down = false
		}
		w.keptAt = time.Time{}
		again, err := w.remember(ctx)
		if err != nil {
			return err
		}
		if again {
			continue
		}
		w.synced()
		for !again {
			if again, err = w.follow(ctx); err != nil {
				return err
			}
			if !again {
				if again, err = w.remember(ctx); err != nil {
					return err
				}
			}
			// The library connects anew by itself when it finds a connection
			// closed; behind the new one may be a Redis that lost data.
			again = again || w.dials.Load() != dials
		}
	}
}

// remember keeps, from time to time, what else is to be written back after
// Redis was emptied. It reports whether it was.
func (w *watcher) remember(ctx context.Context) (flushed bool, err error) {
	if time.Since(w.keptAt) < w.s.block {
		return false, nil
	}
	flushed, err = w.keep(ctx)
	w.keptAt = time.Now()
	return flushed, err
}

func (w *watcher) version(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v, err := w.client.Get(ctx, w.s.keys.version()).Uint64()
	if err != nil && !errors.Is(err, redis.Nil) {
		return 0, err
	}
	return v, nil
}

// tell applies one app's record if it is newer than what was told.
func (w *watcher) tell(ctx context.Context, name string, l loaded) error {
	st := l.st
	if l.err != nil {
		w.s.log.Error("an app is passed over", "app", name, "err", l.err)
		return nil
	}
	if newest := w.s.seen.app(name); newest > st.Version {
		// Either this process has written since the hash was read, or Redis
		// lost a write. In the second case Catalogs hold a record that is no
		// more and ignore this older one, so it gets a version above theirs.
		// In the first, the compare-and-set makes this do nothing. Either way
		// the stream tells what comes of it.
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		out, err := w.s.commit(cctx, w.client, write{app: name, version: st.Version})
		if err == nil && out.kind == "ok" {
			w.s.log.Warn("Redis lost its last writes; an app is back to an older state", "app", name)
		}
		return err
	}
	if w.applied[name] < st.Version {
		w.s.seen.note(name, st.Version)
		w.applied[name] = st.Version
		w.apply(st)
	}
	return nil
}

func (w *watcher) remove(name string, version uint64) {
	w.s.seen.note(name, version)
	delete(w.applied, name)
	w.apply(router.AppState{Version: version, App: router.App{Name: name}, Deleted: true})
}

// change is one entry of the stream.
type change struct {
	version, prev uint64
	app           string
	gone          bool
}

// follow waits for the next changes and tells them. It reports whether the
// stream does not continue from where the watcher is.
func (w *watcher) follow(ctx context.Context) (broken bool, err error) {
	block := min(w.s.block, maxSilence)
	rctx, cancel := context.WithTimeout(ctx, block+ioTimeout)
	defer cancel()
	streams, err := w.client.XRead(rctx, &redis.XReadArgs{
		Streams: []string{w.s.keys.changes(), fmt.Sprintf("%d-0", w.position)},
		Count:   streamBatch, Block: block,
	}).Result()
	if errors.Is(err, redis.Nil) {
		// Nothing new; or Redis was emptied and its versions started over.
		version, err := w.version(ctx)
		return version < w.position, err
	}
	if err != nil {
		return false, err
	}
	var changes []change
	for _, message := range streams[0].Messages {
		c, err := parseChange(message)
		if err != nil {
			return false, err
		}
		if c.prev != w.position {
			return true, nil // trimmed, or another history than the one that was told
		}
		w.position = c.version
		changes = append(changes, c)
	}
	return false, w.tellAll(ctx, changes)
}

// tellAll tells the last change of each app.
func (w *watcher) tellAll(ctx context.Context, changes []change) error {
	last := make(map[string]uint64, len(changes))
	for _, c := range changes {
		last[c.app] = c.version
	}
	changes = slices.DeleteFunc(changes, func(c change) bool { return last[c.app] != c.version })
	var names []string
	for _, c := range changes {
		if !c.gone && w.applied[c.app] < c.version {
			names = append(names, c.app)
		}
	}
	var hashes []map[string]string
	if len(names) > 0 {
		var err error
		if hashes, err = w.s.appHashes(ctx, w.client, names); err != nil {
			return err
		}
	}
	for _, c := range changes {
		switch {
		case c.gone:
			w.remove(c.app, c.version)
		case len(names) > 0 && names[0] == c.app:
			if len(hashes[0]) > 0 { // else it is gone by now, which a later entry tells
				if err := w.tell(ctx, c.app, w.decode(c.app, hashes[0])); err != nil {
					return err
				}
			}
			names, hashes = names[1:], hashes[1:]
		}
	}
	return nil
}

func parseChange(m redis.XMessage) (change, error) {
	id, _, _ := strings.Cut(m.ID, "-")
	app, _ := m.Values["app"].(string)
	prev, _ := m.Values["prev"].(string)
	_, gone := m.Values["gone"]
	c := change{app: app, gone: gone}
	var err, err2 error
	c.version, err = strconv.ParseUint(id, 10, 64)
	c.prev, err2 = strconv.ParseUint(prev, 10, 64)
	if err != nil || err2 != nil || app == "" {
		return c, fmt.Errorf("the change stream has an entry %s that is none of Fluxgate's", m.ID)
	}
	return c, nil
}
