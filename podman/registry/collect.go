package registry

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// abandoned is the age at which an upload has been given up.
const abandoned = 24 * time.Hour

// Collected is what a collection removed.
type Collected struct {
	Manifests int
	Blobs     int
	Bytes     int64
}

// Keep says what of a repository stays.
type Keep struct {
	All  bool
	Tags map[string]bool // where not All: what these lead to
}

// Collect removes what is not kept any more: manifests that none of the tags
// which keep names for their repository leads to, then layers that no manifest
// refers to, then uploads that were given up. What a kept index lists stays, and
// so does what refers to a kept manifest. What is younger than the grace stays
// in any case.
//
// Images may be pushed and pulled meanwhile: deletions wait for manifests that
// are being written, one blob at a time, and pass over what somebody has asked
// about within the grace. Gateways that share a storage must see to it that
// only one of them collects. After an error, what was removed stays removed;
// nothing that is kept is.
func (r *Registry) Collect(ctx context.Context, keep func(repository string) (Keep, error)) (Collected, error) {
	var done Collected
	marked := map[digest.Digest]bool{}
	all, ok := r.images.(distribution.RepositoryEnumerator)
	if !ok {
		return done, errors.New("the storage cannot list its repositories")
	}
	var names []string
	err := all.Enumerate(ctx, func(name string) error {
		names = append(names, name)
		return nil
	})
	if err != nil && !missing(err) {
		return done, fmt.Errorf("listing repositories: %w", err)
	}
	for _, name := range names {
		stays, err := keep(name)
		if err != nil {
			return done, err
		}
		n, err := r.collectRepository(ctx, name, stays, marked)
		done.Manifests += n
		if err != nil {
			return done, fmt.Errorf("collecting %s: %w", name, err)
		}
	}
	if err := r.sweepBlobs(ctx, names, marked, &done); err != nil {
		return done, fmt.Errorf("removing blobs: %w", err)
	}
	if len(names) == 0 {
		return done, nil // there may be no folder yet for the uploads to be in
	}
	// An upload that ends while it walks makes it stop; the next time will do.
	if _, problems := storage.PurgeUploads(ctx, r.driver, time.Now().Add(-max(r.opts.Grace, abandoned)), true); len(problems) > 0 {
		r.opts.Log.Debug("not all abandoned uploads were looked at", "err", errors.Join(problems...))
	}
	return done, nil
}

// collectRepository removes a repository's manifests that are not kept, and
// marks all that the others refer to.
func (r *Registry) collectRepository(ctx context.Context, name string, stays Keep, marked map[digest.Digest]bool) (removed int, err error) {
	repo, err := r.repository(ctx, name)
	if err != nil {
		return 0, err
	}
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return 0, err
	}
	list, ok := manifests.(distribution.ManifestEnumerator)
	if !ok {
		return 0, errors.New("the storage cannot list its manifests")
	}
	var present []digest.Digest
	err = list.Enumerate(ctx, func(d digest.Digest) error {
		present = append(present, d)
		return nil
	})
	if err != nil && !missing(err) {
		return 0, err
	}
	slices.Sort(present)
	present = slices.Compact(present) // those with another digest, too, come twice
	kept := map[digest.Digest]bool{}
	for _, d := range present {
		young, err := r.young(ctx, revisionLink(name, d))
		if err != nil {
			return 0, err
		}
		if stays.All || young || r.touched(d) {
			if err := r.mark(ctx, name, d, kept, marked); err != nil {
				return 0, err
			}
		}
	}
	for tag := range stays.Tags {
		d, err := r.resolve(ctx, name, tag)
		if errors.Is(err, ErrUnknown) {
			continue
		}
		if err == nil {
			err = r.mark(ctx, name, d, kept, marked)
		}
		if err != nil {
			return 0, err
		}
	}
	for _, d := range present {
		if kept[d] {
			continue
		}
		if err := r.removeManifest(ctx, name, repo, manifests, d); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

func (r *Registry) removeManifest(ctx context.Context, name string, repo distribution.Repository, manifests distribution.ManifestService, d digest.Digest) error {
	r.sweep.Lock()
	defer r.sweep.Unlock()
	if r.touched(d) {
		return nil // pushed again just now
	}
	if err := r.unrefer(ctx, name, d); err != nil {
		return err
	}
	if err := r.unalias(ctx, name, d); err != nil {
		return err
	}
	tags := repo.Tags(ctx)
	names, err := tags.All(ctx)
	var none distribution.ErrRepositoryUnknown
	if err != nil && !missing(err) && !errors.As(err, &none) {
		return err
	}
	for _, tag := range names {
		if at, err := tags.Get(ctx, tag); err == nil && at.Digest == d {
			if err := tags.Untag(ctx, tag); err != nil && !missing(err) {
				return err
			}
		}
	}
	if err := manifests.Delete(ctx, d); err != nil && !missing(err) && !errors.Is(err, distribution.ErrBlobUnknown) {
		return err
	}
	return nil
}

// mark keeps a manifest, all that it needs, and all that refers to it.
func (r *Registry) mark(ctx context.Context, name string, d digest.Digest, kept, marked map[digest.Digest]bool) error {
	d, err := r.canonical(ctx, revisionLink, name, d)
	if err != nil || kept[d] {
		return err
	}
	m, err := r.manifest(ctx, name, d)
	if errors.Is(err, ErrUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	kept[d], marked[d] = true, true
	for _, ref := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if ref.Digest == "" {
			continue
		}
		// What cannot be told is not collected.
		blob, err := r.canonical(ctx, layerLink, name, ref.Digest)
		if err != nil {
			return err
		}
		marked[blob] = true
	}
	for _, child := range m.Manifests {
		if err := r.mark(ctx, name, child.Digest, kept, marked); err != nil {
			return err
		}
	}
	others, err := r.referrers(ctx, name, d)
	if err != nil {
		return err
	}
	for _, o := range others {
		if err := r.mark(ctx, name, o.Digest, kept, marked); err != nil {
			return err
		}
	}
	return nil
}

// sweepBlobs removes blobs that are not marked, with their links.
func (r *Registry) sweepBlobs(ctx context.Context, repositories []string, marked map[digest.Digest]bool, done *Collected) error {
	var doomed []digest.Digest
	err := r.images.Blobs().Enumerate(ctx, func(d digest.Digest) error {
		if !marked[d] {
			doomed = append(doomed, d)
		}
		return nil
	})
	if err != nil && !missing(err) {
		return err
	}
	if len(doomed) == 0 {
		return nil
	}
	aliases := map[digest.Digest][]string{}
	for _, name := range repositories {
		some, err := r.layerAliases(ctx, name)
		if err != nil {
			return err
		}
		for d, folders := range some {
			aliases[d] = append(aliases[d], folders...)
		}
	}
	for _, d := range doomed {
		size, gone, err := r.sweepBlob(ctx, repositories, d, aliases[d])
		if err != nil {
			return err
		}
		if gone {
			done.Blobs++
			done.Bytes += size
		}
	}
	return nil
}

// sweepBlob removes a blob. aliases are folders of links to it by other digests.
func (r *Registry) sweepBlob(ctx context.Context, repositories []string, d digest.Digest, aliases []string) (size int64, gone bool, err error) {
	r.sweep.Lock()
	defer r.sweep.Unlock()
	if r.touched(d) {
		return 0, false, nil
	}
	folder := path.Join("/docker/registry/v2/blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
	young, err := r.young(ctx, path.Join(folder, "data"))
	if err != nil || young {
		return 0, false, err
	}
	if info, err := r.driver.Stat(ctx, path.Join(folder, "data")); err == nil {
		size = info.Size()
	}
	// The links go first: a link without its blob would tell pushers that it is
	// there.
	links := slices.Clone(aliases)
	for _, name := range repositories {
		links = append(links, path.Dir(layerLink(name, d)))
	}
	for _, link := range links {
		if err := r.driver.Delete(ctx, link); err != nil && !missing(err) {
			return 0, false, err
		}
	}
	if err := r.driver.Delete(ctx, folder); err != nil && !missing(err) {
		return 0, false, err
	}
	return size, true, nil
}

// young reports whether a file was written within the grace.
func (r *Registry) young(ctx context.Context, file string) (bool, error) {
	info, err := r.driver.Stat(ctx, file)
	if missing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return time.Since(info.ModTime()) < r.opts.Grace, nil
}
