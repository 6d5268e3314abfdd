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
	"time"

	"github.com/fluxgate/fluxgate/router"
)

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
