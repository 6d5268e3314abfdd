package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// Leaser grants busy leases; it returns until when. A time that is past ends
// the lease.
type Leaser interface {
	Lease(ctx context.Context, app, instance string, until time.Time) (time.Time, error)
}

// BusyHandler is where apps themselves ask not to be stopped for a while: PUT or
// POST /busy/APP/INSTANCE with a body that [router.ParseBusy] reads. It must be
// served in the containers' own network only: an instance is known by the
// address that its call comes from, which no other container there can take.
func BusyHandler(catalog *router.Catalog, leases Leaser) http.Handler {
	mux := http.NewServeMux()
	handle := func(w http.ResponseWriter, r *http.Request) {
		app, instance := r.PathValue("app"), r.PathValue("instance")
		if !callsItself(catalog, r.RemoteAddr, app, instance) {
			http.Error(w, "this is not the address of an instance of that name", http.StatusForbidden)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64))
		until, ok := router.ParseBusy(strings.TrimSpace(string(body)), time.Now())
		if err != nil || !ok {
			http.Error(w, "say until when in the body: a duration such as 90s, or a time in RFC 3339 or Unix seconds; 0 ends the lease", http.StatusBadRequest)
			return
		}
		until, err = leases.Lease(r.Context(), app, instance, until)
		var known *router.Error
		switch {
		case errors.As(err, &known):
			http.Error(w, known.Error(), statuses[known.Code])
		case err != nil:
			http.Error(w, "it could not be written down; try again", http.StatusServiceUnavailable)
		case until.IsZero():
			w.WriteHeader(http.StatusNoContent)
		default:
			_, _ = io.WriteString(w, until.UTC().Format(time.RFC3339)+"\n")
		}
	}
	mux.HandleFunc("PUT /busy/{app}/{instance}", handle)
	mux.HandleFunc("POST /busy/{app}/{instance}", handle)
	return mux
}

// callsItself reports whether a call comes from the instance that it is for.
func callsItself(catalog *router.Catalog, from, app, instance string) bool {
	st, ok := catalog.Get(app)
	if !ok {
		return false
	}
	in, ok := st.Instance(instance)
	if !ok {
		return false
	}
	caller, _, err := net.SplitHostPort(from)
	if err != nil {
		return false
	}
	host, _, err := net.SplitHostPort(in.Addr)
	return err == nil && host == caller
}
