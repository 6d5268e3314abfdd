package registry

import (
	"encoding/json"
	"errors"
	"net/http"
	"path"
	"regexp"
	"strings"
)

// kind is what a request is about.
type kind int

const (
	kindBase kind = iota
	kindCatalog
	kindTags
	kindManifest
	kindBlob
	kindUpload
	kindReferrers
)

// route is a request's path, taken apart.
type route struct {
	kind       kind
	repository string
	reference  string // tag or digest
	action     Action
}

// OCI distribution-spec v1.1, "Endpoints": names, and what may follow them.
var (
	nameForm  = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	routeForm = regexp.MustCompile(`^/v2/(.+)/(?:(tags)/list|(manifests)/([^/]+)|(blobs)/([^/]+:[^/]+)|(blobs/uploads)(?:/[^/]*)?|(referrers)/([^/]+))$`)
)

func parseRoute(r *http.Request) (route, bool) {
	rt := route{action: ActionPull}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodDelete:
		rt.action = ActionDelete
	default:
		rt.action = ActionPush
	}
	switch r.URL.Path {
	case "/v2", "/v2/":
		return rt, true
	case "/v2/_catalog":
		rt.kind = kindCatalog
		return rt, true
	}
	m := routeForm.FindStringSubmatch(r.URL.Path)
	// The library would clean such a path and redirect to what comes of it.
	tidy := path.Clean(r.URL.Path) == strings.TrimSuffix(r.URL.Path, "/")
	if m == nil || !tidy || r.URL.RawPath != "" && r.URL.RawPath != r.URL.Path {
		return rt, false
	}
	rt.repository = m[1]
	switch {
	case m[2] != "":
		rt.kind = kindTags
	case m[3] != "":
		rt.kind, rt.reference = kindManifest, m[4]
	case m[5] != "":
		rt.kind, rt.reference = kindBlob, m[6]
	case m[7] != "":
		rt.kind = kindUpload
		rt.action = ActionPush // a DELETE here gives an upload up
	default:
		rt.kind, rt.reference = kindReferrers, m[9]
	}
	return rt, true
}

// admit lets a request through, or answers it.
func (r *Registry) admit(w http.ResponseWriter, req *http.Request, rt route) (user string, ok bool) {
	if rt.repository != "" && (!nameForm.MatchString(rt.repository) || len(rt.repository) > 255) {
		refuse(w, http.StatusBadRequest, "NAME_INVALID", "a repository's name is of a-z, 0-9 and single . _ - between them, in parts with /")
		return "", false
	}
	user, err := r.opts.Authenticate(req.Context(), req, rt.repository, rt.action)
	// Who mounts a blob reads it where it is.
	if from := req.URL.Query().Get("from"); err == nil && from != "" {
		if !nameForm.MatchString(from) {
			refuse(w, http.StatusBadRequest, "NAME_INVALID", "from= names no repository")
			return "", false
		}
		_, err = r.opts.Authenticate(req.Context(), req, from, ActionPull)
	}
	switch {
	case err == nil:
		return user, true
	case errors.Is(err, ErrUnauthorized):
		// RFC 7617.
		w.Header().Set("WWW-Authenticate", `Basic realm="Fluxgate registry", charset="UTF-8"`)
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", ErrUnauthorized.Error())
	case errors.Is(err, ErrDenied):
		refuse(w, http.StatusForbidden, "DENIED", err.Error())
	default:
		r.opts.Log.Warn("the registry cannot tell who asks", "err", err)
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, "UNKNOWN", "tokens cannot be checked at the moment; try again")
	}
	return "", false
}

// refuse answers with an error as the OCI distribution-spec has it ("Error
// Codes").
func refuse(w http.ResponseWriter, status int, code, message string) {
	type problem struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Docker-Distribution-API-Version", "registry/2.0")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string][]problem{"errors": {{code, strings.TrimSpace(message)}}}) // the client is gone where this fails
}
