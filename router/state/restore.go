package state

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/fluxgate/fluxgate/router"
)

// Existing says what a restore does with apps that are there already and are
// not as the backup has them.
type Existing string

// The ways.
const (
	RefuseExisting  Existing = ""          // change nothing at all, and list them
	KeepExisting    Existing = "keep"      // leave them as they are
	ReplaceExisting Existing = "overwrite" // as in the backup; what runs of them goes on until it is replaced
)

// Restored is what a restore did.
type Restored struct {
	Created  BackupCounts `json:"created"`
	Replaced int          `json:"replaced"` // apps
	Kept     int          `json:"kept"`     // apps that are there and were left as they are, or are the same
	Failed   []string     `json:"failed"`   // apps, with the reason
}

// Restore writes back what [Store.Backup] wrote. The whole file is read and
// checked before anything is changed. Tokens, nodes and certificates that are
// there already stay as they are. It may be repeated, and gateways may serve
// meanwhile: they learn of every app at once.
//
// Errors: CodeInvalid (not a whole backup), CodeConflict (apps or hostnames are
// taken; nothing is changed).
func (s *Store) Restore(ctx context.Context, r io.ReadSeeker, existing Existing) (Restored, error) {
	done := Restored{Failed: []string{}}
	if err := s.CheckRestore(ctx, r, existing); err != nil {
		return done, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return done, fmt.Errorf("reading the backup again: %w", err)
	}
	var mu sync.Mutex // over what is counted of apps
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(restoreAtOnce)
	err := readBackup(r, func(l backupLine) error {
		if l.Kind == "app" {
			group.Go(func() error { return s.restoreApp(gctx, l, existing, &mu, &done) })
			return gctx.Err()
		}
		fresh, err := s.restoreShelf(ctx, l)
		if fresh {
			done.Created.add(l.Kind)
		}
		return err
	})
	if werr := group.Wait(); werr != nil {
		err = werr // what ended the reading, too
	}
	slices.Sort(done.Failed)
	return done, errors.Join(err, s.nodesChanged(ctx))
}

// restoreAtOnce is how many apps are written at once: each waits for Redis most
// of its time.
const restoreAtOnce = 16

// CheckRestore reads a whole backup and is the error that Restore would refuse
// it with.
func (s *Store) CheckRestore(ctx context.Context, r io.Reader, existing Existing) error {
	var differ, taken []string
	inBackup := map[string]bool{}
	hosts := map[string]string{}
	var wanted []router.AppState // not compared yet
	compare := func() error {
		names := make([]string, len(wanted))
		for i, want := range wanted {
			names[i] = want.App.Name
		}
		hashes, err := s.appHashes(ctx, s.client, names)
		if err != nil {
			return s.fail(ctx, "reading the apps", err)
		}
		for i, want := range wanted {
			if len(hashes[i]) > 0 {
				have, err := decodeState(names[i], hashes[i], &releaseCache{})
				if err != nil {
					return err
				}
				if !sameDefinition(have, want) {
					differ = append(differ, names[i])
					if existing == KeepExisting {
						continue
					}
				}
			}
			for _, h := range want.App.Domains {
				hosts[h] = names[i]
			}
		}
		wanted = wanted[:0]
		return nil
	}
	err := readBackup(r, func(l backupLine) error {
		switch l.Kind {
		case "installation":
			return nil
		case "token":
			_, err := decode[tokenRecord]("token "+l.Name, l.Value)
			return err
		case "node":
			_, err := decode[nodeRecord]("node "+l.Name, l.Value)
			return err
		case "certificate":
			_, err := decode[certRecord](l.Name, l.Value)
			return err
		case "app":
			want, err := decodeBackup(l)
			if err != nil {
				return err
			}
			inBackup[l.Name] = true
			if wanted = append(wanted, want); len(wanted) == loadBatch {
				return compare()
			}
			return nil
		}
		return router.Errorf(router.CodeInvalid, "the backup holds a record of kind %q, which this version does not know: restore it with the version that made it", l.Kind)
	})
	if err == nil && len(wanted) > 0 {
		err = compare()
	}
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(slices.Sorted(maps.Keys(hosts)), loadBatch) {
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		owners, err := s.client.HMGet(cctx, s.keys.hosts(), batch...).Result()
		cancel()
		if err != nil {
			return s.fail(ctx, "reading the hostnames", err)
		}
		for i, owner := range owners {
			name, _ := owner.(string)
			if name != "" && name != hosts[batch[i]] && (existing != ReplaceExisting || !inBackup[name]) {
				taken = append(taken, fmt.Sprintf("%s belongs to app %s here, and to %s in the backup", batch[i], name, hosts[batch[i]]))
			}
		}
	}
	var complaints []string
	if len(differ) > 0 && existing == RefuseExisting {
		complaints = append(complaints, fmt.Sprintf("%d apps are here already and differ (%s): pass --overwrite to replace them, or --keep to leave them as they are", len(differ), firstFew(differ)))
	}
	if len(taken) > 0 {
		complaints = append(complaints, firstFew(taken)+": remove these hostnames here first")
	}
	if len(complaints) > 0 {
		return router.Errorf(router.CodeConflict, "nothing was restored: %s", strings.Join(complaints, "; "))
	}
	return nil
}

func firstFew(list []string) string {
	const few = 20
	if len(list) <= few {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:few], ", "), len(list)-few)
}

func decodeBackup(l backupLine) (router.AppState, error) {
	fields := maps.Clone(l.Fields)
	fields[fieldVersion] = "1" // a backup holds none; a record must have one
	st, err := decodeState(l.Name, fields, &releaseCache{})
	st.Version = 0
	st.Instances = nil
	return st, err
}

// sameDefinition reports whether two states of an app differ in nothing but
// what runs.
func sameDefinition(a, b router.AppState) bool {
	a.App.Crash, b.App.Crash = router.Crash{}, router.Crash{}
	a.Instances, b.Instances = nil, nil
	set, drop := diff(a, b)
	return len(set)+len(drop) == 0
}

func (s *Store) restoreApp(ctx context.Context, l backupLine, existing Existing, mu *sync.Mutex, done *Restored) error {
	want, err := decodeBackup(l)
	if err != nil {
		return err
	}
	var created, kept bool
	_, err = s.Update(ctx, l.Name, func(st *router.AppState) error {
		created, kept = st.Version == 0, false
		if !created && (existing != ReplaceExisting || sameDefinition(*st, want)) {
			kept = true
			return nil
		}
		again := want.Clone()
		st.App, st.Releases = again.App, again.Releases
		st.App.Crash = router.Crash{}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	switch {
	case router.CodeOf(err) == router.CodeConflict:
		done.Failed = append(done.Failed, l.Name+": "+err.Error())
		return nil
	case err != nil:
		return err
	case kept:
		done.Kept++
	case created:
		done.Created.Apps++
	default:
		done.Replaced++
	}
	return nil
}

// restoreShelf writes a record that is not there.
func (s *Store) restoreShelf(ctx context.Context, l backupLine) (fresh bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	what := "restoring " + l.Kind + " " + l.Name
	switch l.Kind {
	case "installation":
		// What runs on the nodes carries the old identity; it is adopted where
		// there is none here yet.
		fresh, err = s.client.SetNX(ctx, s.keys.installation(), l.Value, 0).Result()
	case "token":
		fresh, err = s.client.HSetNX(ctx, s.keys.tokens(), l.Name, l.Value).Result()
	case "node":
		r, derr := decode[nodeRecord]("node "+l.Name, l.Value)
		if derr != nil || r.Gateway != "" {
			return false, derr // a gateway's own machine stores itself
		}
		if fresh, err = s.client.HSetNX(ctx, s.keys.nodes(), l.Name, l.Value).Result(); err == nil && fresh {
			err = s.setCapacity(ctx, l.Name, r.Facts.Memory)
		}
	case "certificate":
		if fresh, err = s.client.HSetNX(ctx, s.keys.certValues(), l.Name, l.Value).Result(); err == nil {
			err = s.client.ZAdd(ctx, s.keys.certIndex(), redis.Z{Member: l.Name}).Err()
		}
	}
	return fresh, s.fail(ctx, what, err)
}
