package registry

import (
	"context"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
)

// The library keeps everything by its SHA-256. Of what is pushed by another
// digest it keeps a link in the repository, named by that digest, that holds the
// SHA-256. It does so for blobs that are uploaded; here the same links are made
// for manifests and for blobs that are mounted, and collected.

func layerLink(repository string, d digest.Digest) string {
	return path.Join("/docker/registry/v2/repositories", repository, "_layers", d.Algorithm().String(), d.Encoded(), "link")
}

func revisionLink(repository string, d digest.Digest) string {
	return path.Join("/docker/registry/v2/repositories", repository, "_manifests/revisions", d.Algorithm().String(), d.Encoded(), "link")
}

// canonical is the digest by which the library keeps what d stands for, as the
// repository's link says; d itself where there is none.
func (r *Registry) canonical(ctx context.Context, link func(string, digest.Digest) string, repository string, d digest.Digest) (digest.Digest, error) {
	if d.Algorithm() == digest.Canonical || d.Validate() != nil {
		return d, nil
	}
	text, err := r.driver.GetContent(ctx, link(repository, d))
	if missing(err) {
		return d, nil
	}
	if err != nil {
		return "", err
	}
	target, err := digest.Parse(string(text))
	if err != nil {
		return d, nil //nolint:nilerr // a link to nothing is none
	}
	return target, nil
}

// alias lets a manifest be found by another digest.
func (r *Registry) alias(ctx context.Context, repository string, d, canonical digest.Digest) error {
	if d == canonical {
		return nil
	}
	return r.driver.PutContent(ctx, revisionLink(repository, d), []byte(canonical))
}

// unalias removes all other digests of a manifest.
func (r *Registry) unalias(ctx context.Context, repository string, canonical digest.Digest) error {
	text, err := r.driver.GetContent(ctx, blobPath(canonical))
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, a := range []digest.Algorithm{digest.SHA384, digest.SHA512} {
		if err := r.driver.Delete(ctx, path.Dir(revisionLink(repository, a.FromBytes(text)))); err != nil && !missing(err) {
			return err
		}
	}
	return nil
}

// layerAliases are the folders of a repository's links to blobs by other
// digests, by the digest that they lead to.
func (r *Registry) layerAliases(ctx context.Context, repository string) (map[digest.Digest][]string, error) {
	found := map[digest.Digest][]string{}
	for _, a := range []digest.Algorithm{digest.SHA384, digest.SHA512} {
		folders, err := r.driver.List(ctx, path.Join("/docker/registry/v2/repositories", repository, "_layers", a.String()))
		if missing(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, folder := range folders {
			text, err := r.driver.GetContent(ctx, path.Join(folder, "link"))
			if missing(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			found[digest.Digest(text)] = append(found[digest.Digest(text)], folder)
		}
	}
	return found, nil
}

// mountAlias mounts a blob that is asked for by another digest: the library
// would make a link that leads to itself. It reports whether it answered.
func (r *Registry) mountAlias(w http.ResponseWriter, req *http.Request, rt route) bool {
	query := req.URL.Query()
	d, err := digest.Parse(query.Get("mount"))
	if rt.kind != kindUpload || req.Method != http.MethodPost || err != nil || d.Algorithm() == digest.Canonical || query.Get("from") == "" {
		return false
	}
	target, err := r.canonical(req.Context(), layerLink, query.Get("from"), d)
	if err != nil || target == d {
		return false
	}
	r.touch(d, target)
	query.Set("mount", target.String())
	answer := &held{header: http.Header{}}
	r.app.ServeHTTP(answer, pointed(req, req.URL.Path, query))
	if answer.status == http.StatusCreated {
		if err := r.driver.PutContent(req.Context(), layerLink(rt.repository, d), []byte(target)); err != nil {
			r.opts.Log.Warn("a blob's other digest could not be stored", "repository", rt.repository, "digest", d.String(), "err", err)
			refuse(w, http.StatusInternalServerError, "UNKNOWN", "the blob could not be mounted; push it")
			return true
		}
		answer.named(target, d)
	}
	answer.send(w)
	return true
}

// pointed is a request with another path and query.
func pointed(req *http.Request, to string, query url.Values) *http.Request {
	out := req.Clone(req.Context())
	out.URL.Path, out.URL.RawPath, out.URL.RawQuery = to, "", query.Encode()
	out.RequestURI = out.URL.RequestURI()
	return out
}

// named has an answer speak of a digest as the client does.
func (h *held) named(canonical, d digest.Digest) {
	for _, name := range []string{"Location", "Docker-Content-Digest"} {
		if text := h.header.Get(name); text != "" {
			h.header.Set(name, strings.ReplaceAll(text, canonical.String(), d.String()))
		}
	}
}
