package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The library knows nothing of referrers (OCI distribution-spec v1.1, "Listing
// Referrers"), so they are kept beside its own files: a descriptor for each
// manifest that has a subject, in a folder of the subject's.

func referrersPath(repository string, subject digest.Digest) string {
	return path.Join("/docker/registry/v2/repositories", repository, "_referrers", subject.Algorithm().String(), subject.Encoded())
}

// refer writes down that a manifest refers to its subject.
func (r *Registry) refer(ctx context.Context, repository string, m manifestParts, dgst digest.Digest, size int64, contentType string) error {
	d := v1.Descriptor{MediaType: m.MediaType, Digest: dgst, Size: size, ArtifactType: m.ArtifactType, Annotations: m.Annotations}
	if d.MediaType == "" {
		d.MediaType, _, _ = strings.Cut(contentType, ";")
	}
	if d.ArtifactType == "" && len(m.Manifests) == 0 {
		d.ArtifactType = m.Config.MediaType
	}
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return r.driver.PutContent(ctx, path.Join(referrersPath(repository, m.Subject.Digest), dgst.Encoded()), text)
}

// unrefer forgets what a manifest referred to.
func (r *Registry) unrefer(ctx context.Context, repository string, dgst digest.Digest) error {
	m, err := r.manifest(ctx, repository, dgst)
	if errors.Is(err, ErrUnknown) || err == nil && m.Subject == nil {
		return nil
	}
	if err != nil {
		return err
	}
	err = r.driver.Delete(ctx, path.Join(referrersPath(repository, m.Subject.Digest), dgst.Encoded()))
	if missing(err) {
		return nil
	}
	return err
}

func missing(err error) bool {
	var none driver.PathNotFoundError
	return errors.As(err, &none)
}

// referrers are the manifests that refer to one, in the order of their digests.
func (r *Registry) referrers(ctx context.Context, repository string, subject digest.Digest) ([]v1.Descriptor, error) {
	names, err := r.driver.List(ctx, referrersPath(repository, subject))
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing referrers: %w", err)
	}
	slices.Sort(names)
	list := make([]v1.Descriptor, 0, len(names))
	for _, name := range names {
		text, err := r.driver.GetContent(ctx, name)
		if missing(err) {
			continue // deleted meanwhile
		}
		var d v1.Descriptor
		if err == nil {
			err = json.Unmarshal(text, &d)
		}
		if err != nil {
			return nil, fmt.Errorf("reading a referrer: %w", err)
		}
		list = append(list, d)
	}
	return list, nil
}

func (r *Registry) serveReferrers(w http.ResponseWriter, req *http.Request, rt route) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "referrers can only be read")
		return
	}
	subject, err := digest.Parse(rt.reference)
	if err != nil {
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID", "referrers are asked for by the digest of their subject")
		return
	}
	list, err := r.referrers(req.Context(), rt.repository, subject)
	if err != nil {
		r.opts.Log.Warn("referrers cannot be listed", "repository", rt.repository, "err", err)
		refuse(w, http.StatusInternalServerError, "UNKNOWN", "referrers cannot be listed at the moment")
		return
	}
	if kind := req.URL.Query().Get("artifactType"); kind != "" {
		list = slices.DeleteFunc(list, func(d v1.Descriptor) bool { return d.ArtifactType != kind })
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	if list == nil {
		list = []v1.Descriptor{}
	}
	w.Header().Set("Content-Type", v1.MediaTypeImageIndex)
	_ = json.NewEncoder(w).Encode(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: list}) // the client is gone where this fails
}
