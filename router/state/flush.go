package state

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

// A Redis that was emptied (FLUSHALL, a lost disk) has no installation's
// identity any more: that is how it is told from one whose apps were removed.
// Gateways hold every app in their Catalogs, so they write them back instead
// of removing everything that runs.

// errFlushed ends a Watch's session; the next one finds the same and acts.
var errFlushed = errors.New("it was emptied")

// keepsake is what a Store remembers of Redis's content beside the apps, so
// that it can be written back. It holds secrets: it must never be logged.
type keepsake struct {
	mu           sync.Mutex
	installation string
	onFlush      func(context.Context) error
	another      chan struct{}                // closed when the identity is another one than at first
	once         sync.Once                    // closes it
	shelves      map[string]map[string]string // by key: tokens, nodes, and the certificates' accounts and root
}

func (k *keepsake) id() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.installation
}

func (k *keepsake) setID(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.installation = id
}

// Replaced is closed when the installation turns out to have another identity
// than this Store gave: Redis was emptied, this gateway started before another
// one had written back what it knew, and made an identity of its own. What it
// takes for its containers are then not the installation's.
func (s *Store) Replaced() <-chan struct{} { return s.kept.another }

// emptied is the error of a read that found nothing, where that is because
// Redis was emptied and is not written back yet; else nil. It keeps everybody
// from acting on what only seems to be gone.
func (s *Store) emptied(ctx context.Context) error {
	known := s.kept.id()
	if known == "" {
		return nil
	}
	id, err := s.client.Get(ctx, s.keys.installation()).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return s.fail(ctx, "looking whether Redis was emptied", err)
	}
	if id != known {
		return s.unavailable("Redis at %s: %w and is being written back; try again in a moment", s.label, errFlushed)
	}
	return nil
}

// OnFlush sets what a Watch calls when it finds that Redis was emptied, in
// place of telling that every app is deleted. fn calls [Store.Rebuild] with all
// that the gateway knows; after an error it is called again. Without an fn, an
// emptied Redis counts as one whose apps were all removed. Call it before Watch.
func (s *Store) OnFlush(fn func(context.Context) error) {
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	s.kept.onFlush = fn
}

// flushed reports whether Redis was emptied since its identity was last seen.
func (w *watcher) flushed(ctx context.Context) (bool, error) {
	known := w.s.kept.id()
	if known == "" {
		id, err := w.s.Installation(ctx)
		w.s.kept.setID(id)
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	id, err := w.client.Get(ctx, w.s.keys.installation()).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return false, err
	}
	if id == known {
		return false, nil
	}
	if id != "" {
		// Somebody made another identity. Behind it is an emptied Redis,
		// unless its versions go on from ours: then a gateway that knew more
		// has written back already, and its identity is the right one.
		version, err := w.version(ctx)
		if err != nil {
			return false, err
		}
		if version >= w.position {
			w.s.log.Error("the installation has another identity than when this gateway started; it must start anew, so that it knows what runs", "redis", w.s.label)
			w.s.kept.setID(id)
			w.s.kept.once.Do(func() { close(w.s.kept.another) })
			return false, nil
		}
	}
	return true, nil
}

// refill has the gateway write back what it knows.
func (w *watcher) refill(ctx context.Context) error {
	w.s.kept.mu.Lock()
	fn := w.s.kept.onFlush
	w.s.kept.mu.Unlock()
	if fn == nil {
		w.s.kept.setID("")
		_, err := w.flushed(ctx)
		return err
	}
	if err := fn(ctx); err != nil {
		w.s.log.Error("Redis was emptied, and what this gateway knows could not be written back; trying again", "redis", w.s.label, "err", err)
		return err
	}
	return w.s.restoreInstallation(ctx) // where fn had nothing to rebuild
}

// keep remembers what Rebuild will need. It reports whether Redis turned out
// to be emptied; then nothing newer is remembered.
func (w *watcher) keep(ctx context.Context) (flushed bool, err error) {
	s, k := w.s, w.s.keys
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// In one step: while another gateway writes back, what there is is not all,
	// and the identity, which comes last, is missing. A Cluster has no such step
	// over several slots; there, the look at the identity below must do.
	var identity *redis.StringCmd
	replies := map[string]*redis.MapStringStringCmd{}
	together := w.client.TxPipelined
	if _, cluster := w.client.(*redis.ClusterClient); cluster {
		together = w.client.Pipelined
	}
	_, err = together(cctx, func(p redis.Pipeliner) error {
		identity = p.Get(cctx, k.installation())
		for _, key := range []string{k.tokens(), k.nodes(), k.capacity()} {
			replies[key] = p.HGetAll(cctx, key)
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return false, err
	}
	if identity.Val() != s.kept.id() {
		return w.flushed(ctx)
	}
	shelves := map[string]map[string]string{}
	for key, reply := range replies {
		if shelves[key], err = reply.Result(); err != nil {
			return false, err
		}
	}
	// Not the certificates themselves: there may be very many, and they can be
	// had again. The accounts and the local root cannot.
	var names []string
	for _, r := range [][2]string{{"-", "(certificates/"}, {"(certificates0", "(ocsp/"}, {"(ocsp0", "+"}} {
		some, err := w.client.ZRangeByLex(cctx, k.certIndex(), &redis.ZRangeBy{Min: r[0], Max: r[1], Count: maxKeptAccounts}).Result()
		if err != nil {
			return false, err
		}
		names = append(names, some...)
	}
	certs := map[string]string{}
	if len(names) > 0 {
		values, err := w.client.HMGet(cctx, k.certValues(), names...).Result()
		if err != nil {
			return false, err
		}
		for i, v := range values {
			if text, ok := v.(string); ok {
				certs[names[i]] = text
			}
		}
	}
	shelves[k.certValues()] = certs
	// The identity comes last: it stands for all that was read before it.
	if flushed, err := w.flushed(ctx); flushed || err != nil {
		return flushed, err
	}
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	// Accounts are hardly ever removed: one that is missing may be on its way.
	for name, value := range s.kept.shelves[k.certValues()] {
		if _, there := certs[name]; !there {
			certs[name] = value
		}
	}
	s.kept.shelves = shelves
	return false, nil
}

const maxKeptAccounts = 1000

// Rebuild writes back what a gateway knows after Redis was emptied: states, as
// its Catalog holds them, with their instances; and what this Store remembers:
// tokens, nodes, ACME accounts and the local root certificate as of the last
// seconds, and the installation's identity. It creates only what does not
// exist, so that several gateways may do it at once and repeat it. Versions go
// on above all that this Store saw. A hostname that another app has by now is
// left to that one.
//
// restored is how many apps this call created. After an error, some may have
// been.
func (s *Store) Rebuild(ctx context.Context, states []router.AppState) (restored int, err error) {
	for _, st := range states {
		s.seen.note(st.App.Name, st.Version)
	}
	for _, st := range states {
		if st.Deleted || st.App.Name == "" {
			continue
		}
		ok, err := s.recreate(ctx, st)
		if err != nil {
			return restored, err
		}
		if ok {
			restored++
		}
	}
	shelved, err := s.refillShelves(ctx)
	if err != nil {
		return restored, err
	}
	// The identity comes last: while it is missing, the others know that there
	// is something to write back.
	if err := s.restoreInstallation(ctx); err != nil {
		return restored, err
	}
	s.log.Warn("Redis was emptied; what this gateway knew is written back",
		"redis", s.label, "apps", restored, "tokens", shelved[s.keys.tokens()], "nodes", shelved[s.keys.nodes()],
		"lost", "history, request rates, certificates (they are issued again), and what changed in the last seconds, tokens made then included")
	return restored, nil
}

// recreate stores an app unless there is one of its name.
func (s *Store) recreate(ctx context.Context, st router.AppState) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	name := st.App.Name
	st = st.Clone()
	for {
		set, _ := diff(router.AppState{App: router.App{Name: name}}, st)
		reserve := reservations(router.AppState{}, st)
		for i := 2; i < len(reserve); i += 3 {
			reserve[i] = "" // what runs already needs no room
		}
		out, err := s.commit(ctx, s.client, write{app: name, set: set, claim: st.App.Domains, reserve: reserve})
		if err != nil {
			return false, s.fail(ctx, "writing back app "+name, err)
		}
		switch out.kind {
		case "ok", "done":
			s.seen.note(name, out.version)
			return true, nil
		case "taken":
			s.log.Warn("a hostname went to another app in the meantime", "app", name, "host", out.host, "owner", out.owner)
			st.App.Domains = slices.DeleteFunc(st.App.Domains, func(h string) bool { return h == out.host })
		default:
			return false, nil
		}
	}
}

// refillShelves counts, by key, what was missing.
func (s *Store) refillShelves(ctx context.Context) (map[string]int, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s.kept.mu.Lock()
	shelves := maps.Clone(s.kept.shelves) // the inner maps are never changed
	s.kept.mu.Unlock()
	added := map[string]int{}
	for key, fields := range shelves {
		for field, value := range fields {
			if key == s.keys.certValues() {
				if err := s.client.ZAdd(ctx, s.keys.certIndex(), redis.Z{Member: field}).Err(); err != nil {
					return nil, s.fail(ctx, "writing back certificates' accounts", err)
				}
			}
			fresh, err := s.client.HSetNX(ctx, key, field, value).Result()
			if err != nil {
				return nil, s.fail(ctx, "writing back tokens and nodes", err)
			}
			if fresh {
				added[key]++
			}
		}
	}
	if added[s.keys.nodes()] > 0 {
		return added, s.nodesChanged(ctx)
	}
	return added, nil
}

func (s *Store) restoreInstallation(ctx context.Context) error {
	id := s.kept.id()
	if id == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.fail(ctx, "writing back the installation's identity", s.client.Set(ctx, s.keys.installation(), id, 0).Err())
}
