package api

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/fluxgate/fluxgate/router"
)

const streamType = "application/x-ndjson"

// heartbeat is how often a silent stream carries an empty line, so that neither
// proxies nor the client take it for dead.
const heartbeat = 15 * time.Second

// writeWait is how long a client may take no byte before it counts as gone.
const writeWait = 30 * time.Second

// DeployEvent is one line of a deploy's stream. The last line is an error or done.
type DeployEvent struct {
	Event EventKind `json:"event" enum:"step,log,error,done"`
	Step  string    `json:"step,omitempty" doc:"For step: build, store, start, probe, route"`
	Text  string    `json:"text,omitempty" doc:"For step: what begins, in words. For log: a line of the build's output"`
	Error *Problem  `json:"error,omitempty"`
	Done  *Deployed `json:"done,omitempty"`
}

// EventKind is what a DeployEvent tells.
type EventKind string

// The kinds.
const (
	EventStep  EventKind = "step"
	EventLog   EventKind = "log"
	EventError EventKind = "error"
	EventDone  EventKind = "done"
)

// Deployed is what a deploy came to.
type Deployed struct {
	App       string   `json:"app"`
	Release   int      `json:"release" doc:"Number of the release that serves now"`
	Unchanged bool     `json:"unchanged" doc:"Nothing new to run: no release was made"`
	Settings  bool     `json:"settings" doc:"Policy or domains were changed, without a new release"`
	URLs      []string `json:"urls" doc:"The app's addresses, the main one first"`
	Timings   []Timing `json:"timings" doc:"Where the time went"`
}

// Timing is how long one step took.
type Timing struct {
	Step string  `json:"step"`
	MS   float64 `json:"ms" doc:"Milliseconds"`
}

// LogLine is one line of a log stream: a line that a container wrote, or, as
// the last one, why the stream failed.
type LogLine struct {
	router.LogLine
	Error *Problem `json:"error,omitempty"`
}

// lines writes NDJSON and flushes after every line. Its methods may be called
// concurrently.
type lines struct {
	mu     sync.Mutex
	w      http.ResponseWriter
	rc     *http.ResponseController
	silent bool // nothing was sent since the last heartbeat
	err    error
}

func (l *lines) send(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silent = false
	return l.write(append(text, '\n'))
}

func (l *lines) write(p []byte) error {
	if l.err != nil {
		return l.err
	}
	_ = l.rc.SetWriteDeadline(time.Now().Add(writeWait)) // not every writer has deadlines
	if _, l.err = l.w.Write(p); l.err == nil {
		l.err = l.rc.Flush()
	}
	return l.err
}

// beat keeps the stream alive until the func is called.
func (l *lines) beat() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(heartbeat)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
			}
			l.mu.Lock()
			if l.silent {
				_ = l.write([]byte("\n"))
			}
			l.silent = true
			l.mu.Unlock()
		}
	}()
	return func() { close(done); <-ended }
}

// streaming is the second half of a streaming handler: the status is 200 by
// then, so that its error becomes the last line.
type streaming func(ctx context.Context, out *lines) error

// registerStream adds an endpoint that answers with lines of type T. prepare
// checks the input; its error is an ordinary problem.
func registerStream[T, I any](s *Server, op huma.Operation, prepare func(context.Context, *I) (streaming, error)) {
	schema := s.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
	op.Responses = map[string]*huma.Response{"200": {
		Description: "A stream of lines, each a JSON object",
		Content:     map[string]*huma.MediaType{streamType: {Schema: schema}},
	}}
	s.describe(&op)
	huma.Register(s.huma, op, func(ctx context.Context, in *I) (*huma.StreamResponse, error) {
		x := exchangeOf(ctx)
		_ = x.rc.SetReadDeadline(time.Time{}) // else huma's would end the stream
		run, err := prepare(ctx, in)
		if err != nil {
			s.logFailure(x.r, err)
			return nil, ProblemOf(err)
		}
		return &huma.StreamResponse{Body: func(huma.Context) {
			x.w.Header().Set("Content-Type", streamType)
			x.w.WriteHeader(http.StatusOK)
			out := &lines{w: x.w, rc: x.rc}
			_ = x.rc.Flush()
			stop := out.beat()
			defer stop()
			err := run(ctx, out)
			if err != nil {
				s.logFailure(x.r, err)
				_ = out.send(DeployEvent{Event: EventError, Error: ProblemOf(err)})
			}
			_ = x.rc.SetWriteDeadline(time.Time{})
		}}, nil
	})
}

// stopwatch measures steps that follow each other.
type stopwatch struct {
	timings []Timing
	name    string
	since   time.Time
}

// step ends the running step and begins the named one; steps of one name in a
// row are one.
func (w *stopwatch) step(name string) {
	now := time.Now()
	if name == w.name {
		return
	}
	if w.name != "" {
		w.timings = append(w.timings, Timing{w.name, float64(now.Sub(w.since).Microseconds()) / 1000})
	}
	w.name, w.since = name, now
}

// done ends the running step and gives all of them, never nil.
func (w *stopwatch) done() []Timing {
	w.step("")
	if w.timings == nil {
		return []Timing{}
	}
	return w.timings
}

// deployStream carries one deploy: it tells the client each step and line, and
// how long the steps took.
type deployStream struct {
	out   *lines
	watch *stopwatch
}

func (d deployStream) step(name, text string) {
	d.watch.step(name)
	_ = d.out.send(DeployEvent{Event: EventStep, Step: name, Text: text})
}

// progress fits router's deploys.
func (d deployStream) progress(step router.DeployStep) { d.step(step.Name, step.Text) }

// finish sends the last line.
func (s *Server) finish(d deployStream, st router.AppState, done Deployed) {
	done.App, done.Release, done.Timings = st.App.Name, st.App.Current, d.watch.done()
	for _, host := range st.App.Hosts(s.b.Domain) {
		done.URLs = append(done.URLs, s.url(host))
	}
	_ = d.out.send(DeployEvent{Event: EventDone, Done: &done})
}

// deploying runs what changes an app's serving release: one at a time for each
// app, and to its end even when the client goes away. check runs under the same
// claim and sees the stored record.
func (s *Server) deploying(ctx context.Context, app, what string, check func(router.AppState) error,
	run func(context.Context, deployStream) (router.AppState, Deployed, error),
) (streaming, error) {
	free, err := s.busy.claim(app, what)
	if err != nil {
		return nil, err
	}
	st, err := s.b.Apps.Load(ctx, app)
	if err == nil {
		err = check(st)
	}
	if err == nil {
		err = s.begin()
	}
	if err != nil {
		free()
		return nil, err
	}
	return func(ctx context.Context, out *lines) error {
		defer s.work.Done()
		defer free()
		ctx, cancel := s.deployContext(ctx)
		defer cancel()
		d := deployStream{out, &stopwatch{}}
		st, done, err := run(ctx, d)
		if err != nil {
			return err
		}
		s.finish(d, st, done)
		return nil
	}, nil
}
