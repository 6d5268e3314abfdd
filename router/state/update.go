package state

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

// maxTries is how often Update starts over because somebody else was faster.
const maxTries = 50

//go:embed commit.lua
var commitLua string

var commitScript = redis.NewScript(commitLua)

// Load reads one app: CodeNotFound where there is none.
func (s *Store) Load(ctx context.Context, app string) (router.AppState, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.load(ctx, app)
}

func (s *Store) load(ctx context.Context, app string) (router.AppState, error) {
	hash, err := s.client.HGetAll(ctx, s.keys.app(app)).Result()
	if err != nil {
		return router.AppState{}, s.fail(ctx, "reading app "+app, err)
	}
	if len(hash) == 0 {
		if err := s.emptied(ctx); err != nil {
			return router.AppState{}, err
		}
		return router.AppState{}, router.Errorf(router.CodeNotFound, "there is no app %q", app)
	}
	st, err := decodeState(app, hash, &s.releases)
	if err == nil {
		s.seen.note(app, st.Version)
	}
	return st, err
}

// Update changes one app atomically. fn gets a copy of its record, changes it,
// and may be called several times, each time with a fresh one: it must be pure
// and must not call the Store. For an app that does not exist, the record is
// empty but for App.Name, and its Version is 0; setting Deleted removes the
// app, its hostnames, and what is kept about it.
//
// An error of fn's ends the Update with nothing written, as does a hostname in
// App.Domains that another app has (CodeConflict, naming both), or a new
// instance on a node whose memory is all reserved (CodeExhausted, with a
// [router.FullError] as its cause). If fn changes
// nothing, nothing is written. The result is the record as it is stored now.
//
// A lost answer does no harm: a repeated write is recognised, so that fn's
// change is made once.
func (s *Store) Update(ctx context.Context, app string, fn func(*router.AppState) error) (router.AppState, error) {
	what := "changing app " + app
	leave, err := s.gates.enter(ctx, app)
	if err != nil {
		return router.AppState{}, s.fail(ctx, what, err)
	}
	defer leave()
	for try := range maxTries {
		st, again, err := s.try(ctx, app, what, fn)
		if !again {
			return st, err
		}
		if err := pause(ctx, try); err != nil {
			return router.AppState{}, s.fail(ctx, what, err)
		}
	}
	return router.AppState{}, s.unavailable("%s: others changed it %d times in the meantime; try again", what, maxTries)
}

// try is one round of load, change, compare-and-set. It reports whether
// somebody else was faster.
func (s *Store) try(ctx context.Context, app, what string, fn func(*router.AppState) error) (_ router.AppState, again bool, _ error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	prev, err := s.load(ctx, app)
	if err != nil {
		if router.CodeOf(err) != router.CodeNotFound {
			return router.AppState{}, false, err
		}
		prev = router.AppState{App: router.App{Name: app}}
	}
	next := prev.Clone()
	if err := fn(&next); err != nil {
		return router.AppState{}, false, err
	}
	next.Version, next.App.Name = prev.Version, app

	w := write{app: app, version: prev.Version, reserve: reservations(prev, next)}
	if next.Deleted {
		if prev.Version == 0 {
			return next, false, nil
		}
		w.gone, w.release = true, prev.App.Domains
	} else {
		w.set, w.drop = diff(prev, next)
		if len(w.set)+len(w.drop) == 0 {
			return prev, false, nil
		}
		w.claim = without(next.App.Domains, prev.App.Domains)
		w.release = without(prev.App.Domains, next.App.Domains)
		w.edits = edits(prev, next)
	}
	out, err := s.commit(ctx, s.client, w)
	if err != nil {
		return router.AppState{}, false, s.fail(ctx, what, err)
	}
	if w.gone && out.kind == "conflict" && out.version == 0 {
		return next, false, nil // removed by an attempt whose answer was lost, or by somebody else
	}
	switch out.kind {
	case "ok":
		next.Version = out.version
		s.seen.note(app, out.version)
		if next.Deleted {
			s.forget(ctx, app)
		}
		return next, false, nil
	case "done":
		// An earlier attempt of this write got through though its answer did
		// not; others may have written since.
		st, err := s.load(ctx, app)
		return st, false, err
	case "taken":
		return router.AppState{}, false, router.Errorf(router.CodeConflict,
			"the domain %s belongs to app %s: remove it there first, or choose another", out.host, out.owner)
	}
	if out.full != nil {
		return router.AppState{}, false, router.Errorf(router.CodeExhausted, "%w", out.full)
	}
	return router.AppState{}, true, nil
}

// reservations are the changes, by node, in what an app's instances count for.
// A node must have room for an instance that is new there; one that wakes where
// it is, is there already.
func reservations(prev, next router.AppState) []string {
	change, fresh := map[string]router.Bytes{}, map[string]bool{}
	known := make(map[string]bool, len(prev.Instances))
	for _, in := range prev.Instances {
		change[in.Node] -= prev.Reserves(in)
		known[in.ID] = true
	}
	if !next.Deleted {
		for _, in := range next.Instances {
			change[in.Node] += next.Reserves(in)
			fresh[in.Node] = fresh[in.Node] || !known[in.ID]
		}
	}
	var list []string
	for _, node := range slices.Sorted(maps.Keys(change)) {
		if node == "" || change[node] == 0 {
			continue
		}
		mark := ""
		if fresh[node] && change[node] > 0 {
			mark = "new"
		}
		list = append(list, node, strconv.FormatInt(int64(change[node]), 10), mark)
	}
	return list
}

// forget drops what is kept about a deleted app outside its record. It would
// only lie there unused, so failing is no error.
func (s *Store) forget(ctx context.Context, app string) {
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Del(ctx, s.keys.history(app))
		p.Del(ctx, s.keys.traffic(app))
		p.Del(ctx, s.keys.memory(app))
		p.ZRem(ctx, s.keys.active(), app)
		p.ZRem(ctx, s.keys.due(), app)
		return nil
	})
	if err != nil {
		s.log.Warn("the history and the traffic of a deleted app were left behind", "app", app, "err", err)
	}
}

// write is one app's change as the commit script takes it.
type write struct {
	app            string
	version        uint64 // that it was read at
	gone           bool
	claim, release []string // hostnames
	set            []string // field, value, field, value, …
	drop           []string // fields
	reserve        []string // node, change in bytes, "new" or "", …
	edits          []string // to put at the head of the policy's history
}

// outcome is the commit script's answer.
type outcome struct {
	kind        string // ok, done, conflict, taken, full
	version     uint64
	host, owner string            // for taken
	full        *router.FullError // for full
}

// commit sends one write. The client library repeats it after a broken
// connection; its identity makes that harmless.
func (s *Store) commit(ctx context.Context, client redis.Scripter, w write) (outcome, error) {
	k := s.keys
	gone := ""
	if w.gone {
		gone = "delete"
	}
	args := []any{w.app, strconv.FormatUint(w.version, 10), strconv.FormatUint(s.seen.floor(), 10), newIdentity(), gone}
	for _, list := range [][]string{w.claim, w.release, w.set, w.drop, w.reserve, w.edits} {
		args = append(args, len(list))
		for _, v := range list {
			args = append(args, v)
		}
	}
	reply, err := commitScript.Run(ctx, client, []string{k.app(w.app), k.apps(), k.hosts(), k.version(), k.changes(), k.reserved(), k.capacity(), k.edits(w.app)}, args...).StringSlice()
	if err != nil {
		return outcome{}, err
	}
	if len(reply) < 2 {
		return outcome{}, errors.New("the commit script answered nothing")
	}
	out := outcome{kind: reply[0]}
	if out.kind == "taken" {
		out.host, out.owner = reply[1], reply[len(reply)-1]
		return out, nil
	}
	if out.kind == "full" && len(reply) == 4 {
		reserved, err := strconv.ParseInt(reply[2], 10, 64)
		capacity, err2 := strconv.ParseInt(reply[3], 10, 64)
		out.full = &router.FullError{Node: reply[1], Reserved: router.Bytes(reserved), Capacity: router.Bytes(capacity)}
		return out, errors.Join(err, err2)
	}
	if out.version, err = strconv.ParseUint(reply[1], 10, 64); err != nil {
		return outcome{}, fmt.Errorf("the commit script answered %q as a version", reply[1])
	}
	return out, nil
}

// newIdentity names a write: 16 characters. The app's hash keeps the last
// eight.
func newIdentity() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// without is all of list that is not in other.
func without(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(v string) bool { return slices.Contains(other, v) })
}

// pause waits before another try: at first not at all, then a random time of
// up to 50 ms.
func pause(ctx context.Context, try int) error {
	if try == 0 {
		return ctx.Err()
	}
	limit := min(time.Millisecond<<min(try, 6), 50*time.Millisecond)
	select {
	case <-time.After(mathrand.N(limit)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
