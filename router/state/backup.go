package state

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/fluxgate/fluxgate/router"
)

// A backup is text: a header, one JSON record per line, and a last line that
// holds the number and the SHA-256 of all before it, so that a file that was
// cut short or changed is told from a whole one. Records keep the form in which
// they are stored, their schema version included, so that later versions read
// them as they read what they find in Redis. It holds secrets and private keys.

const (
	backupFormat  = 1
	maxBackupLine = 64 << 20
)

// backupLine is any line of a backup.
type backupLine struct {
	Kind string `json:"kind"` // header, installation, app, token, node, certificate, end
	Name string `json:"name,omitempty"`

	Fields map[string]string `json:"fields,omitempty"` // of an app
	Value  string            `json:"value,omitempty"`  // of the others

	Format  int       `json:"fluxgate_backup,omitempty"` // of the header
	Created time.Time `json:"created,omitzero"`          // of the header
	Records int       `json:"records,omitempty"`         // of the end
	SHA256  string    `json:"sha256,omitempty"`          // of the end
}

// BackupCounts is how much of what a backup holds, or a restore has written.
type BackupCounts struct {
	Apps         int `json:"apps"`
	Tokens       int `json:"tokens"`
	Nodes        int `json:"nodes"`
	Certificates int `json:"certificates"`
}

func (c *BackupCounts) add(kind string) {
	switch kind {
	case "app":
		c.Apps++
	case "token":
		c.Tokens++
	case "node":
		c.Nodes++
	case "certificate":
		c.Certificates++
	}
}

// Backup writes everything that defines this installation to w: apps with their
// releases, policies, hostnames and secrets; tokens (their hashes), nodes, and
// certificates with their keys. What runs, history and request rates are not in
// it. Each app is as it was at one moment; gateways go on serving and writing
// meanwhile. each, if given, is told of every app as it is in the backup. After
// an error, what was written is no backup.
func (s *Store) Backup(ctx context.Context, w io.Writer, each func(router.AppState)) (BackupCounts, error) {
	out := &backupWriter{sum: sha256.New()}
	out.w = bufio.NewWriterSize(io.MultiWriter(w, out.sum), 64<<10)
	out.put(backupLine{Kind: "header", Format: backupFormat, Created: time.Now().UTC()})
	id, err := s.Installation(ctx)
	if err != nil {
		return out.counts, err
	}
	out.put(backupLine{Kind: "installation", Value: id})
	for _, shelf := range []struct{ kind, key string }{{"token", s.keys.tokens()}, {"node", s.keys.nodes()}, {"certificate", s.keys.certValues()}} {
		err := s.eachField(ctx, shelf.key, func(name, value string) {
			out.put(backupLine{Kind: shelf.kind, Name: name, Value: value})
		})
		if err != nil {
			return out.counts, err
		}
	}
	index, err := s.appIndex(ctx, s.client)
	if err != nil {
		return out.counts, s.fail(ctx, "listing the apps", err)
	}
	names := slices.Sorted(maps.Keys(index))
	for batch := range slices.Chunk(names, loadBatch) {
		hashes, err := s.appHashes(ctx, s.client, batch)
		if err != nil {
			return out.counts, s.fail(ctx, "reading the apps", err)
		}
		for i, fields := range hashes {
			maps.DeleteFunc(fields, func(field, _ string) bool {
				return strings.HasPrefix(field, instPrefix) || field == fieldVersion || field == fieldWrites
			})
			if len(fields) == 0 { // it was removed meanwhile
				continue
			}
			l := backupLine{Kind: "app", Name: batch[i], Fields: fields}
			out.put(l)
			if each != nil {
				st, err := decodeBackup(l)
				if err != nil {
					return out.counts, err
				}
				each(st)
			}
		}
	}
	return out.counts, out.end(w)
}

// eachField reads a hash of any size bit by bit; each field once.
func (s *Store) eachField(ctx context.Context, key string, fn func(field, value string)) error {
	seen := map[string]bool{}
	for cursor := uint64(0); ; {
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		page, next, err := s.client.HScan(cctx, key, cursor, "", loadBatch).Result()
		cancel()
		if err != nil {
			return s.fail(ctx, "reading "+key, err)
		}
		for i := 0; i+1 < len(page); i += 2 {
			if !seen[page[i]] {
				seen[page[i]] = true
				fn(page[i], page[i+1])
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// backupWriter writes lines and sums them up.
type backupWriter struct {
	w      *bufio.Writer
	sum    hash.Hash
	lines  int
	counts BackupCounts
	err    error
}

func (b *backupWriter) put(l backupLine) {
	if b.err != nil {
		return
	}
	text, err := json.Marshal(l)
	if err == nil {
		_, err = b.w.Write(append(text, '\n'))
	}
	b.err = err
	b.lines++
	b.counts.add(l.Kind)
}

func (b *backupWriter) end(w io.Writer) error {
	if b.err == nil {
		b.err = b.w.Flush()
	}
	if b.err != nil {
		return fmt.Errorf("writing the backup: %w", b.err)
	}
	text, err := json.Marshal(backupLine{Kind: "end", Records: b.lines, SHA256: hex.EncodeToString(b.sum.Sum(nil))})
	if err == nil {
		_, err = w.Write(append(text, '\n'))
	}
	return err
}

// BackupLength checks that r holds a whole backup, and is how many bytes it has.
// What comes after it is not the state's: images.
func BackupLength(r io.Reader) (int64, error) {
	var length int64
	err := readLines(r, func(text []byte) { length += int64(len(text)) }, func(backupLine) error { return nil })
	return length, err
}

// readBackup calls fn for every record of a backup, and checks that the file is
// whole. Only after it returned nil may what fn was told be relied upon.
func readBackup(r io.Reader, fn func(backupLine) error) error {
	return readLines(r, func([]byte) {}, fn)
}

// readLines is readBackup, with every line for raw as it stands there.
func readLines(r io.Reader, raw func([]byte), fn func(backupLine) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	sum := sha256.New()
	for lines := 0; ; lines++ {
		text, err := readLine(in)
		if errors.Is(err, io.EOF) {
			return router.Errorf(router.CodeInvalid, "the backup is cut short after line %d: its last line is missing; use another copy", lines)
		}
		if err != nil {
			return router.Errorf(router.CodeInvalid, "the backup cannot be read at line %d: %w", lines+1, err)
		}
		raw(text)
		var l backupLine
		if err := json.Unmarshal(text, &l); err != nil {
			// The decoder's own text may quote a secret.
			return router.Errorf(router.CodeInvalid, "line %d is no record of a Fluxgate backup", lines+1)
		}
		switch {
		case lines == 0 && (l.Kind != "header" || l.Format == 0):
			return router.Errorf(router.CodeInvalid, "this is no Fluxgate backup: it has no header")
		case lines == 0 && l.Format > backupFormat:
			return router.Errorf(router.CodeInvalid, "this backup was made by a newer Fluxgate (format %d; this one reads up to %d): restore it with that version", l.Format, backupFormat)
		case l.Kind == "end" && (l.Records != lines || l.SHA256 != hex.EncodeToString(sum.Sum(nil))):
			return router.Errorf(router.CodeInvalid, "the backup is damaged: what it holds is not what was written; use another copy")
		case l.Kind == "end":
			return nil
		}
		_, _ = sum.Write(text) // never fails
		if lines > 0 {
			if err := fn(l); err != nil {
				return err
			}
		}
	}
}

// readLine is one line with its end, of bounded length.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line, nil
		case errors.Is(err, bufio.ErrBufferFull) && len(line) < maxBackupLine:
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, errors.New("a line is too long")
		default:
			return nil, err
		}
	}
}

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
