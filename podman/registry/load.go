package registry

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// errDamaged is in the errors about saved images that are not as they were
// written.
var errDamaged = errors.New("the images are damaged")

// saved is what is known of saved images while they are read.
type saved struct {
	index     v1.Index
	manifests map[digest.Digest][]byte
	needed    map[digest.Digest][]string // blobs and manifests, with the repositories that need them
	seen      map[digest.Digest]bool
}

// CheckSaved reads what Save wrote, and reports whether it is whole and nothing
// else.
func CheckSaved(in io.Reader) (Saved, error) {
	return readSaved(in, func(_ []string, d digest.Digest, content io.Reader) error {
		return copyVerified(io.Discard, d, content)
	}, nil)
}

// Load puts back what Save wrote. Check it with CheckSaved first: what comes
// before a damaged place stays, as blobs that are collected in time. It may be
// repeated, and images may be pushed and pulled and collected meanwhile.
func (r *Registry) Load(ctx context.Context, in io.Reader) (Saved, error) {
	return readSaved(in, func(repositories []string, d digest.Digest, content io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return r.restoreBlob(ctx, repositories, d, content)
	}, func(s *saved) error {
		for _, entry := range s.index.Manifests {
			repository, tag, _ := strings.Cut(entry.Annotations[v1.AnnotationRefName], ":")
			if err := r.restoreManifest(ctx, s, repository, entry.Digest); err != nil {
				return fmt.Errorf("%s:%s: %w", repository, tag, err)
			}
			if err := r.Tag(ctx, repository, tag, entry.Digest.String()); err != nil {
				return fmt.Errorf("%s:%s: %w", repository, tag, err)
			}
		}
		return nil
	})
}

// readSaved calls blob for each blob and manifest, and then end.
func readSaved(in io.Reader, blob func(repositories []string, d digest.Digest, content io.Reader) error, end func(*saved) error) (done Saved, err error) {
	s := &saved{manifests: map[digest.Digest][]byte{}, needed: map[digest.Digest][]string{}, seen: map[digest.Digest]bool{}}
	tr := tar.NewReader(in)
	if err := s.readIndex(tr); err != nil {
		return done, err
	}
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return done, fmt.Errorf("%w: %w", errDamaged, err)
		}
		d := digest.Digest(strings.Replace(strings.TrimPrefix(h.Name, "blobs/"), "/", ":", 1))
		repositories, needed := s.needed[d]
		if !needed || s.seen[d] || h.Typeflag != tar.TypeReg {
			return done, fmt.Errorf("%w: %q does not belong there", errDamaged, h.Name)
		}
		s.seen[d] = true
		var content io.Reader = tr
		if _, isManifest := s.manifests[d]; isManifest {
			var text bytes.Buffer
			if err := copyVerified(&text, d, io.LimitReader(tr, maxManifest)); err != nil {
				return done, fmt.Errorf("manifest %s: %w", d, err)
			}
			if err := s.addManifest(repositories, d, text.Bytes()); err != nil {
				return done, err
			}
			content = bytes.NewReader(text.Bytes())
		}
		if err := blob(repositories, d, content); err != nil {
			return done, fmt.Errorf("blob %s: %w", d, err)
		}
		done.Blobs++
		done.Bytes += h.Size
	}
	for d := range s.needed {
		if !s.seen[d] {
			return done, fmt.Errorf("%w: blob %s is missing", errDamaged, d)
		}
	}
	done.Images = len(s.index.Manifests)
	if end != nil {
		err = end(s)
	}
	return done, err
}

// readIndex reads all that comes before the blobs.
func (s *saved) readIndex(tr *tar.Reader) error {
	var texts [3][]byte
	for i, want := range []string{v1.ImageLayoutFile, savedIndex, savedDigest} {
		h, err := tr.Next()
		if err != nil || h.Name != want || h.Size > maxIndex {
			return fmt.Errorf("%w: %s is not where it was written (%w)", errDamaged, want, err)
		}
		if texts[i], err = io.ReadAll(tr); err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
	}
	if digest.FromBytes(texts[1]).Encoded() != string(texts[2]) {
		return fmt.Errorf("%w: the index is not what was written", errDamaged)
	}
	if err := json.Unmarshal(texts[1], &s.index); err != nil {
		return fmt.Errorf("%w: the index cannot be read", errDamaged)
	}
	for _, m := range s.index.Manifests {
		repository, tag, ok := strings.Cut(m.Annotations[v1.AnnotationRefName], ":")
		if !ok || !tagForm.MatchString(tag) || !nameForm.MatchString(repository) || m.Digest.Validate() != nil {
			return fmt.Errorf("%w: an image of the index has no name", errDamaged)
		}
		s.need(repository, m.Digest)
		s.manifests[m.Digest] = nil
	}
	return nil
}

func (s *saved) need(repository string, d digest.Digest) {
	if !slices.Contains(s.needed[d], repository) {
		s.needed[d] = append(s.needed[d], repository)
	}
}

// addManifest notes what a manifest refers to.
func (s *saved) addManifest(repositories []string, d digest.Digest, text []byte) error {
	var parts manifestParts
	if err := json.Unmarshal(text, &parts); err != nil {
		return fmt.Errorf("%w: the manifest %s cannot be read", errDamaged, d)
	}
	s.manifests[d] = text
	for _, child := range append(append([]v1.Descriptor{parts.Config}, parts.Layers...), parts.Manifests...) {
		if child.Digest == "" || len(child.URLs) > 0 {
			continue
		}
		if child.Digest.Validate() != nil {
			return fmt.Errorf("%w: the manifest %s refers to nothing", errDamaged, d)
		}
		for _, repository := range repositories {
			s.need(repository, child.Digest)
		}
	}
	for _, child := range parts.Manifests {
		if _, known := s.manifests[child.Digest]; !known {
			s.manifests[child.Digest] = nil
		}
	}
	return nil
}

// copyVerified copies what a digest stands for, and nothing else.
func copyVerified(w io.Writer, d digest.Digest, content io.Reader) error {
	check := d.Verifier()
	_, err := io.Copy(w, io.TeeReader(content, check))
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: they are cut short", errDamaged)
	case err == nil && !check.Verified():
		return fmt.Errorf("%w: it is not what was written", errDamaged)
	}
	return err
}

// tagForm is how tags look: OCI distribution-spec v1.1, "Pulling manifests".
var tagForm = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

// restoreBlob writes a blob and its links. One that is there is written again:
// so it is young, and no collection takes it before its manifest has come, not
// even another process's.
func (r *Registry) restoreBlob(ctx context.Context, repositories []string, d digest.Digest, content io.Reader) (err error) {
	// An upload's folder, so that it is cleared away if this is cut off.
	folder := path.Join("/docker/registry/v2/repositories", repositories[0], "_uploads", "restore-"+rand.Text())
	if err := r.driver.PutContent(ctx, path.Join(folder, "startedat"), []byte(time.Now().UTC().Format(time.RFC3339))); err != nil {
		return err
	}
	defer func() {
		if derr := r.driver.Delete(context.WithoutCancel(ctx), folder); derr != nil && !missing(derr) {
			err = errors.Join(err, derr)
		}
	}()
	w, err := r.driver.Writer(ctx, path.Join(folder, "data"), false)
	if err != nil {
		return err
	}
	sum := digest.Canonical.Digester()
	if err := copyVerified(io.MultiWriter(w, sum.Hash()), d, content); err != nil {
		return errors.Join(err, w.Cancel(context.WithoutCancel(ctx)), w.Close())
	}
	if err := errors.Join(w.Commit(ctx), w.Close()); err != nil {
		return err
	}
	r.sweep.RLock()
	defer r.sweep.RUnlock()
	at := sum.Digest()
	r.touch(d, at)
	if err := r.driver.Move(ctx, path.Join(folder, "data"), blobPath(at)); err != nil {
		return err
	}
	for _, name := range repositories {
		for _, known := range []digest.Digest{at, d} {
			if err := r.driver.PutContent(ctx, layerLink(name, known), []byte(at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// restoreManifest writes a manifest, after those that it lists.
func (r *Registry) restoreManifest(ctx context.Context, s *saved, repository string, d digest.Digest) error {
	var parts manifestParts
	if err := json.Unmarshal(s.manifests[d], &parts); err != nil {
		return err
	}
	for _, child := range parts.Manifests {
		if err := r.restoreManifest(ctx, s, repository, child.Digest); err != nil {
			return err
		}
	}
	kind := mediaType(s.manifests[d])
	m, _, err := distribution.UnmarshalManifest(kind, s.manifests[d])
	if err != nil {
		return err
	}
	repo, err := r.repository(ctx, repository)
	if err != nil {
		return err
	}
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return err
	}
	r.sweep.RLock()
	defer r.sweep.RUnlock()
	r.touch(append(r.kept(ctx, repository, parts), d)...)
	at, err := manifests.Put(ctx, m)
	if err == nil {
		err = r.alias(ctx, repository, d, at)
	}
	if err != nil {
		return err
	}
	if parts.Subject != nil {
		return r.refer(ctx, repository, parts, at, int64(len(s.manifests[d])), kind)
	}
	return nil
}
