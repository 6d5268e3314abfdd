package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxManifest is the largest manifest taken; the spec demands at least 4 MiB.
const maxManifest = 4 << 20

// manifestParts are the fields that all kinds of manifests share.
type manifestParts struct {
	SchemaVersion int `json:"schemaVersion"`

	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Subject      *v1.Descriptor    `json:"subject"`
	Config       v1.Descriptor     `json:"config"`
	Layers       []v1.Descriptor   `json:"layers"`
	Manifests    []v1.Descriptor   `json:"manifests"`
	Annotations  map[string]string `json:"annotations"`
}

// kept are the digests by which what a manifest needs is kept.
func (r *Registry) kept(ctx context.Context, repository string, m manifestParts) []digest.Digest {
	var all []digest.Digest
	note := func(link func(string, digest.Digest) string, d digest.Digest) {
		if d == "" {
			return
		}
		all = append(all, d)
		// Where it cannot be read, the library will not find it either.
		if c, err := r.canonical(ctx, link, repository, d); err == nil && c != d {
			all = append(all, c)
		}
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		note(layerLink, d.Digest)
	}
	for _, d := range m.Manifests {
		note(revisionLink, d.Digest)
	}
	return all
}

// held is a small answer that is not sent yet.
type held struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (h *held) Header() http.Header { return h.header }
func (h *held) WriteHeader(status int) {
	if h.status == 0 {
		h.status = status
	}
}

func (h *held) Write(p []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	return h.body.Write(p)
}

func (h *held) send(w http.ResponseWriter) {
	for k, v := range h.header {
		w.Header()[k] = v
	}
	w.WriteHeader(h.status)
	_, _ = w.Write(h.body.Bytes()) // the client is gone where this fails
}

// putManifest stores a manifest; a tag makes it a push, which is told before
// the client is answered.
func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, rt route, user string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxManifest))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			refuse(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", "a manifest may have 4 MiB")
		} else {
			refuse(w, http.StatusBadRequest, "MANIFEST_INVALID", "the manifest could not be read")
		}
		return
	}
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	var parts manifestParts
	if err := json.Unmarshal(body, &parts); err != nil || parts.SchemaVersion != 2 {
		refuse(w, http.StatusBadRequest, "MANIFEST_INVALID", "this is no manifest of schema version 2")
		return
	}
	dgst := digest.FromBytes(body)
	asked := dgst
	if d, err := digest.Parse(rt.reference); err == nil && d.Algorithm() != digest.Canonical {
		if asked = d; d.Algorithm().FromBytes(body) != d {
			refuse(w, http.StatusBadRequest, "DIGEST_INVALID", "the manifest is not what its digest says")
			return
		}
		req = pointed(req, strings.Replace(req.URL.Path, d.String(), dgst.String(), 1), req.URL.Query())
	}

	// While this is held nothing is deleted, and once the manifest is checked,
	// what it refers to is safe.
	r.sweep.RLock()
	r.touch(append(r.kept(req.Context(), rt.repository, parts), dgst)...)
	answer := &held{header: http.Header{}}
	r.app.ServeHTTP(answer, req)
	stored := answer.status == http.StatusCreated
	if stored && asked != dgst {
		if err := r.alias(req.Context(), rt.repository, asked, dgst); err != nil {
			r.opts.Log.Warn("a manifest's other digest could not be stored", "repository", rt.repository, "digest", asked.String(), "err", err)
			stored = false
			answer = &held{header: http.Header{}}
			refuse(answer, http.StatusInternalServerError, "UNKNOWN", "the manifest's digest could not be written down; push again")
		}
		answer.named(dgst, asked)
	}
	if stored && parts.Subject != nil && parts.Subject.Digest.Validate() == nil {
		if err := r.refer(req.Context(), rt.repository, parts, dgst, int64(len(body)), req.Header.Get("Content-Type")); err != nil {
			r.opts.Log.Warn("a referrer could not be stored", "repository", rt.repository, "digest", dgst.String(), "err", err)
			stored = false
			answer = &held{header: http.Header{}}
			refuse(answer, http.StatusInternalServerError, "UNKNOWN", "the manifest's subject could not be written down; push again")
		}
		answer.header.Set("OCI-Subject", parts.Subject.Digest.String())
	}
	r.sweep.RUnlock()

	_, byDigest := digest.Parse(rt.reference)
	if stored && byDigest != nil && r.opts.Pushed != nil {
		mediaType, _, _ := strings.Cut(req.Header.Get("Content-Type"), ";")
		err := r.opts.Pushed(req.Context(), Push{Repository: rt.repository, Tag: rt.reference, Digest: dgst.String(), MediaType: strings.TrimSpace(mediaType), User: user})
		if err != nil {
			// Clients repeat what failed with 5xx, and show what was refused.
			refuse(w, http.StatusBadRequest, "DENIED", err.Error())
			return
		}
	}
	answer.send(w)
}

// deleteManifest also forgets what the manifest referred to.
func (r *Registry) deleteManifest(w http.ResponseWriter, req *http.Request, rt route) {
	if d, err := digest.Parse(rt.reference); err == nil {
		kept, err := r.canonical(req.Context(), revisionLink, rt.repository, d)
		if err == nil {
			req = pointed(req, strings.Replace(req.URL.Path, d.String(), kept.String(), 1), req.URL.Query())
			err = r.unalias(req.Context(), rt.repository, kept)
			d = kept
		}
		if err != nil {
			r.opts.Log.Warn("a manifest's other digests could not be removed", "repository", rt.repository, "digest", d.String(), "err", err)
		}
		if err := r.unrefer(req.Context(), rt.repository, d); err != nil {
			r.opts.Log.Warn("a referrer could not be removed", "repository", rt.repository, "digest", d.String(), "err", err)
		}
	}
	r.app.ServeHTTP(w, req)
}
