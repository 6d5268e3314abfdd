package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// silence is how long a stream may bring nothing, not even a heartbeat.
const silence = 4 * heartbeat

// Logs calls fn for every line until the stream ends, ctx ends or fn fails.
func (c *Client) Logs(ctx context.Context, app string, opts LogOptions, fn func(router.LogLine) error) error {
	q := url.Values{"lines": {strconv.Itoa(opts.Lines)}}
	if opts.Follow {
		q.Set("follow", "true")
	}
	if !opts.Since.IsZero() {
		q.Set("since", opts.Since.UTC().Format(time.RFC3339Nano))
	}
	return stream(ctx, c, http.MethodGet, appPath(app, "logs")+"?"+q.Encode(), "", nil, func(l LogLine) error {
		if l.Error != nil {
			return l.Error.Cause()
		}
		return fn(l.LogLine)
	})
}

// Rollback lets release number serve, or with 0 the one before.
func (c *Client) Rollback(ctx context.Context, app string, number int, progress func(DeployEvent)) (Deployed, error) {
	return c.deploy(ctx, http.MethodPost, appPath(app, "rollback"), Rollback{Release: number}, progress)
}

// ChangeEnv sets and unsets variables.
func (c *Client) ChangeEnv(ctx context.Context, app string, change EnvChange, progress func(DeployEvent)) (Deployed, error) {
	return c.deploy(ctx, http.MethodPatch, appPath(app, "env"), change, progress)
}

// Push sends a push. upload writes the context, a gzipped tar; nil sends none.
// It may be called from another goroutine; its error ends the push and is
// returned. progress gets every event but the last, from one goroutine.
func (c *Client) Push(ctx context.Context, app string, spec PushSpec, upload func(io.Writer) error, progress func(DeployEvent)) (Deployed, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	text, err := json.Marshal(spec)
	if err != nil {
		return Deployed{}, err
	}
	body, pipe := io.Pipe()
	form := multipart.NewWriter(pipe)
	uploaded := make(chan error, 1)
	go func() {
		err := writePush(form, text, upload)
		_ = pipe.CloseWithError(err) // always nil
		uploaded <- err
	}()
	done, err := c.events(ctx, http.MethodPost, appPath(app, "push"), form.FormDataContentType(), body, progress)
	_ = body.CloseWithError(errStopped)
	// The context's own failure says more than what it did to the request.
	if uploadErr := <-uploaded; uploadErr != nil && !errors.Is(uploadErr, errStopped) && !errors.Is(uploadErr, io.ErrClosedPipe) {
		return Deployed{}, uploadErr
	}
	return done, err
}

// errStopped ends an upload that nobody reads any more.
var errStopped = errors.New("the gateway answered before the upload was complete")

func writePush(form *multipart.Writer, spec []byte, upload func(io.Writer) error) error {
	part, err := form.CreatePart(textproto.MIMEHeader{
		"Content-Disposition": {`form-data; name="manifest"`}, "Content-Type": {"application/json"},
	})
	if err != nil {
		return err
	}
	if _, err := part.Write(spec); err != nil {
		return err
	}
	if upload != nil {
		part, err := form.CreatePart(textproto.MIMEHeader{
			"Content-Disposition": {`form-data; name="context"; filename="context.tar.gz"`}, "Content-Type": {"application/gzip"},
		})
		if err != nil {
			return err
		}
		if err := upload(part); err != nil {
			return err
		}
	}
	return form.Close()
}

// deploy sends body as JSON and reads a deploy's events.
func (c *Client) deploy(ctx context.Context, method, path string, body any, progress func(DeployEvent)) (Deployed, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return Deployed{}, err
	}
	return c.events(ctx, method, path, "application/json", bytes.NewReader(text), progress)
}

func (c *Client) events(ctx context.Context, method, path, contentType string, body io.Reader, progress func(DeployEvent)) (Deployed, error) {
	var done *Deployed
	err := stream(ctx, c, method, path, contentType, body, func(e DeployEvent) error {
		switch {
		case e.Event == EventError && e.Error != nil:
			return e.Error.Cause()
		case e.Event == EventDone && e.Done != nil:
			done = e.Done
		case progress != nil:
			progress(e)
		}
		return nil
	})
	if err != nil {
		return Deployed{}, err
	}
	if done == nil {
		return Deployed{}, router.Errorf(router.CodeUnavailable, "the gateway at %s stopped telling how it goes; `fluxgate releases` shows whether it went well", c.where)
	}
	return *done, nil
}

// stream reads lines of type T.
func stream[T any](ctx context.Context, c *Client, method, path, contentType string, body io.Reader, fn func(T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := c.do(ctx, method, path, contentType, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	silent := router.Errorf(router.CodeUnavailable, "the gateway at %s fell silent", c.where)
	watch := &watchedReader{r: resp.Body, timer: time.AfterFunc(silence, func() { cancel(silent) })}
	defer watch.timer.Stop()
	lines := json.NewDecoder(watch)
	for {
		var line T
		switch err := lines.Decode(&line); {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(context.Cause(ctx), silent):
			return silent
		case err != nil:
			return c.broken(ctx, err)
		}
		if err := fn(line); err != nil {
			return err
		}
	}
}

// watchedReader winds its timer up whenever something comes.
type watchedReader struct {
	r     io.Reader
	timer *time.Timer
}

func (w *watchedReader) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.timer.Reset(silence)
	}
	return n, err
}
