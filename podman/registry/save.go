package registry

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Saved images are an OCI image layout as a tar, in an order that can be read
// as a stream: the index first, with the name of each image as REPOSITORY:TAG
// and under its own digest, then the manifests, then all that these refer to.
// All but the index is named by its digest, so that a damaged file is told from
// a whole one.
const (
	savedIndex  = "index.json"
	savedDigest = "index.json.sha256" // ours: of the index
	maxIndex    = 1 << 30
)

// Named is an image in a repository.
type Named struct{ Repository, Tag string }

func (n Named) String() string { return n.Repository + ":" + n.Tag }

// Saved is how much there is of saved images.
type Saved struct {
	Images int   `json:"images"`
	Blobs  int   `json:"blobs"`
	Bytes  int64 `json:"bytes"` // as they are kept, compressed
}

// Save writes images to w, each blob once, however many share it. What is not
// in the registry is left out and returned. Layers are never held in memory,
// manifests are. Images may be pushed meanwhile. After an error, what was
// written is of no use.
func (r *Registry) Save(ctx context.Context, w io.Writer, images []Named) (done Saved, missing []Named, err error) {
	list := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	h := &haul{registry: r, texts: map[digest.Digest][]byte{}, seen: map[digest.Digest]bool{}}
	for _, image := range images {
		dgst, err := r.resolve(ctx, image.Repository, image.Tag)
		if err == nil {
			err = h.add(ctx, image.Repository, dgst)
		}
		if errors.Is(err, ErrUnknown) {
			missing = append(missing, image)
			continue
		}
		if err != nil {
			return done, missing, err
		}
		list.Manifests = append(list.Manifests, v1.Descriptor{
			MediaType: mediaType(h.texts[dgst]), Digest: dgst, Size: int64(len(h.texts[dgst])),
			Annotations: map[string]string{v1.AnnotationRefName: image.String()},
		})
		done.Images++
	}
	// Those that are listed by others come after them.
	for len(h.children) > 0 {
		next := h.children
		h.children = nil
		for _, c := range next {
			if err := h.add(ctx, c.repository, c.digest); err != nil {
				return done, missing, err
			}
		}
	}
	index, err := json.Marshal(list)
	if err != nil {
		return done, missing, err
	}
	out := tar.NewWriter(w)
	put := func(name string, size int64, content io.Reader) {
		if err == nil {
			err = out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
		}
		if err == nil {
			_, err = io.Copy(out, content)
		}
	}
	layout := `{"imageLayoutVersion":"` + v1.ImageLayoutVersion + `"}`
	put(v1.ImageLayoutFile, int64(len(layout)), strings.NewReader(layout))
	put(savedIndex, int64(len(index)), bytes.NewReader(index))
	sum := digest.FromBytes(index).Encoded()
	put(savedDigest, int64(len(sum)), strings.NewReader(sum))
	for _, d := range h.manifests {
		text := h.texts[d]
		put(savedPath(d), int64(len(text)), bytes.NewReader(text))
		done.Bytes += int64(len(text))
	}
	for _, b := range h.blobs {
		d := b.digest
		if err != nil {
			return done, missing, err
		}
		info, serr := r.driver.Stat(ctx, blobPath(b.at))
		if serr != nil {
			return done, missing, fmt.Errorf("blob %s: %w", d, serr)
		}
		content, oerr := r.driver.Reader(ctx, blobPath(b.at), 0)
		if oerr != nil {
			return done, missing, fmt.Errorf("blob %s: %w", d, oerr)
		}
		check := d.Verifier()
		put(savedPath(d), info.Size(), io.TeeReader(content, check))
		_ = content.Close()
		if err == nil && !check.Verified() {
			err = fmt.Errorf("blob %s is damaged in the registry's storage: remove its images and push them again", d)
		}
		done.Bytes += info.Size()
	}
	done.Blobs = len(h.manifests) + len(h.blobs)
	if err == nil {
		err = out.Close()
	}
	return done, missing, err
}

// haul is what is to be saved.
type haul struct {
	registry  *Registry
	manifests []digest.Digest
	blobs     []kept
	children  []child
	texts     map[digest.Digest][]byte // of the manifests
	seen      map[digest.Digest]bool
}

// kept is a blob as manifests name it, and as it is kept.
type kept struct{ digest, at digest.Digest }

// child is a manifest that another one lists.
type child struct {
	repository string
	digest     digest.Digest
}

// add notes a manifest and what it needs.
func (h *haul) add(ctx context.Context, repository string, dgst digest.Digest) error {
	if h.seen[dgst] {
		return nil
	}
	parts, err := h.registry.manifest(ctx, repository, dgst)
	if err != nil {
		return err
	}
	at, err := h.registry.canonical(ctx, revisionLink, repository, dgst)
	if err != nil {
		return err
	}
	text, err := h.registry.driver.GetContent(ctx, blobPath(at))
	if err != nil {
		return fmt.Errorf("%s@%s: %w", repository, dgst, err)
	}
	h.seen[dgst], h.texts[dgst] = true, text
	h.manifests = append(h.manifests, dgst)
	for _, m := range parts.Manifests {
		h.children = append(h.children, child{repository, m.Digest})
	}
	for _, d := range append([]v1.Descriptor{parts.Config}, parts.Layers...) {
		// A layer that stays elsewhere is the node's to fetch.
		if d.Digest != "" && !h.seen[d.Digest] && len(d.URLs) == 0 {
			h.seen[d.Digest] = true
			at, err := h.registry.canonical(ctx, layerLink, repository, d.Digest)
			if err != nil {
				return err
			}
			h.blobs = append(h.blobs, kept{d.Digest, at})
		}
	}
	return nil
}

// mediaType is what a manifest is.
func mediaType(manifest []byte) string {
	var m manifestParts
	_ = json.Unmarshal(manifest, &m) // it is one, or was never taken
	switch {
	case m.MediaType != "":
		return m.MediaType
	case len(m.Manifests) > 0:
		return v1.MediaTypeImageIndex
	}
	return v1.MediaTypeImageManifest
}

func savedPath(d digest.Digest) string {
	return path.Join("blobs", d.Algorithm().String(), d.Encoded())
}

func blobPath(d digest.Digest) string {
	return path.Join("/docker/registry/v2/blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded(), "data")
}
