package podman

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containers/podman/v4/pkg/errorhandling"

	"github.com/fluxgate/fluxgate/router"
)

// request sends one request through the bindings' connection, for endpoints
// whose bindings want files on disk or cannot stream. Any answer but success
// is an error. The caller closes the body.
func (n *Node) request(ctx context.Context, method, path string, query url.Values, body io.Reader, contentType string) (*http.Response, error) {
	header := http.Header{}
	if contentType != "" {
		header.Set("Content-Type", contentType)
	}
	return n.send(ctx, method, path, query, body, header)
}

// send is request with headers.
func (n *Node) send(ctx context.Context, method, path string, query url.Values, body io.Reader, header http.Header) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "d", Path: "/v4.0.0/libpod" + path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := n.client.Do(req)
	if err != nil {
		return nil, n.engineError(ctx, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, n.engineError(ctx, err)
	}
	model := &errorhandling.ErrorModel{ResponseCode: resp.StatusCode}
	if json.Unmarshal(text, model) != nil || model.Message == "" {
		model.Message = strings.TrimSpace(string(text))
	}
	return nil, n.engineError(ctx, model)
}

// engineError gives an error of the engine, or of the way to it, its meaning.
// What it cannot tell is CodeInternal. The caller's own cancellation stays
// what it is.
func (n *Node) engineError(ctx context.Context, err error) error {
	var ours *router.Error
	var late deadline
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		return ours
	case ctx.Err() != nil && errors.As(context.Cause(ctx), &late):
		e := router.Errorf(router.CodeUnavailable, "%w; see whether Podman hangs there: podman --url %s ps", late, n.url)
		e.RetryAfter = time.Second
		return e
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), errLost):
		e := router.Errorf(router.CodeUnavailable, "node %s: %w", n.name, errLost)
		e.RetryAfter = time.Second
		return e
	case ctx.Err() != nil:
		return ctx.Err()
	}
	var model *errorhandling.ErrorModel
	if !errors.As(err, &model) {
		var at *url.Error
		if errors.As(err, &at) {
			err = at.Err // the URL of the call says nothing to anybody
		}
		e := router.Errorf(router.CodeUnavailable, "node %s: Podman cannot be reached: %w", n.name, err)
		e.RetryAfter = time.Second
		return e
	}
	if full := n.diskFull(model.Message); full != nil {
		return full
	}
	switch model.ResponseCode {
	case http.StatusInternalServerError:
		// Podman finds a container and then meets its removal by somebody else.
		if strings.HasSuffix(model.Message, "does not exist in database: no such container") {
			return router.Errorf(router.CodeNotFound, "node %s: %w", n.name, err)
		}
	case http.StatusNotFound:
		return router.Errorf(router.CodeNotFound, "node %s: %w", n.name, err)
	case http.StatusConflict:
		return router.Errorf(router.CodeConflict, "node %s: %w", n.name, err)
	}
	return router.Errorf(router.CodeInternal, "node %s: %w", n.name, err)
}

func isCode(err error, code router.Code) bool { return err != nil && router.CodeOf(err) == code }

// engineText is the engine's own words, without what we put around them.
func engineText(err error) string {
	var model *errorhandling.ErrorModel
	if errors.As(err, &model) {
		return strings.TrimSpace(model.Message)
	}
	return err.Error()
}

// appFault reports whether the OCI runtime refused to run what the app asks to
// be run, rather than failed itself.
func appFault(err error) bool {
	text := strings.ToLower(engineText(err))
	for _, sign := range []string{
		"executable file", "exec format error", "no such file or directory: oci runtime", "oci runtime attempted to invoke a command",
		"oci command not found", "permission denied: oci permission denied", "unable to find user", "no matching entries in passwd",
	} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}
