package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrUnknown is the cause of errors about what is not in the registry.
var ErrUnknown = errors.New("not in the registry")

// Image is what a manifest says of an image.
type Image struct {
	Manifest string // its digest
	ID       string // digest of its configuration, which is its ID on the nodes
	Layers   []Layer
	config   string // media type of its configuration
}

// Runs reports whether it is a container image, not a signature or another
// artifact.
func (i Image) Runs() bool {
	return len(i.Layers) > 0 && (i.config == v1.MediaTypeImageConfig || i.config == "application/vnd.docker.container.image.v1+json")
}

// Layer is one layer as it is stored and carried, compressed.
type Layer struct {
	Digest string
	Size   int64 // bytes
}

func (r *Registry) repository(ctx context.Context, name string) (distribution.Repository, error) {
	named, err := reference.WithName(name)
	if err != nil {
		return nil, fmt.Errorf("repository %q: %w", name, err)
	}
	return r.images.Repository(ctx, named)
}

// manifest reads the parts of a manifest that matter here.
func (r *Registry) manifest(ctx context.Context, repository string, dgst digest.Digest) (manifestParts, error) {
	var parts manifestParts
	repo, err := r.repository(ctx, repository)
	if err != nil {
		return parts, err
	}
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return parts, err
	}
	m, err := manifests.Get(ctx, dgst)
	var unknown distribution.ErrManifestUnknownRevision
	if errors.As(err, &unknown) || missing(err) {
		return parts, fmt.Errorf("%s@%s: %w", repository, dgst, ErrUnknown)
	}
	if err != nil {
		return parts, fmt.Errorf("%s@%s: %w", repository, dgst, err)
	}
	_, payload, err := m.Payload()
	if err == nil {
		err = json.Unmarshal(payload, &parts)
	}
	return parts, err
}

// resolve is the digest that a tag or digest stands for.
func (r *Registry) resolve(ctx context.Context, repository, ref string) (digest.Digest, error) {
	if d, err := digest.Parse(ref); err == nil {
		return r.canonical(ctx, revisionLink, repository, d)
	}
	repo, err := r.repository(ctx, repository)
	if err != nil {
		return "", err
	}
	d, err := repo.Tags(ctx).Get(ctx, ref)
	var unknown distribution.ErrTagUnknown
	if errors.As(err, &unknown) || missing(err) {
		return "", fmt.Errorf("%s:%s: %w", repository, ref, ErrUnknown)
	}
	return d.Digest, err
}

// Image finds an image by tag or digest; of an index, the one for this
// machine's architecture, or for any Linux where it is the only one. An error
// for what is not there has ErrUnknown as its cause.
func (r *Registry) Image(ctx context.Context, repository, ref string) (Image, error) {
	dgst, err := r.resolve(ctx, repository, ref)
	if err != nil {
		return Image{}, err
	}
	m, err := r.manifest(ctx, repository, dgst)
	if err != nil {
		return Image{}, err
	}
	if len(m.Manifests) > 0 {
		child, ok := choose(m.Manifests)
		if !ok {
			return Image{}, fmt.Errorf("%s:%s has no image for linux/%s", repository, ref, runtime.GOARCH)
		}
		if dgst, err = r.canonical(ctx, revisionLink, repository, child.Digest); err != nil {
			return Image{}, err
		}
		if m, err = r.manifest(ctx, repository, dgst); err != nil {
			return Image{}, err
		}
	}
	if m.Config.Digest == "" {
		return Image{}, fmt.Errorf("%s:%s is no container image", repository, ref)
	}
	img := Image{Manifest: dgst.String(), ID: m.Config.Digest.String(), config: m.Config.MediaType}
	for _, l := range m.Layers {
		img.Layers = append(img.Layers, Layer{l.Digest.String(), l.Size})
	}
	return img, nil
}

func choose(list []v1.Descriptor) (v1.Descriptor, bool) {
	for _, d := range list {
		if d.Platform != nil && d.Platform.OS == "linux" && d.Platform.Architecture == runtime.GOARCH {
			return d, true
		}
	}
	if len(list) == 1 && list[0].Platform == nil {
		return list[0], true
	}
	return v1.Descriptor{}, false
}

// Tag lets a tag stand for a manifest that is in the repository.
func (r *Registry) Tag(ctx context.Context, repository, tag, manifest string) error {
	repo, err := r.repository(ctx, repository)
	if err != nil {
		return err
	}
	d, err := digest.Parse(manifest)
	if err != nil {
		return fmt.Errorf("digest %q: %w", manifest, err)
	}
	r.sweep.RLock()
	defer r.sweep.RUnlock()
	if _, err := r.manifest(ctx, repository, d); err != nil {
		return err
	}
	return repo.Tags(ctx).Tag(ctx, tag, v1.Descriptor{Digest: d})
}
