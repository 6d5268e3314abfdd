// Hello is the app that `./justw up` pushes, and the one that the benchmarks
// wake and load. It shows all that Fluxgate asks of an app: listen on $PORT,
// answer a health check, and finish what is in flight on SIGTERM.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// maxSlow bounds /slow, so that a typing mistake does not hold a connection for a day.
const maxSlow = time.Minute

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := serve(ctx, ":"+port); err != nil {
		slog.Error("hello stops", "error", err)
		os.Exit(1)
	}
}

// serve answers until ctx ends, then finishes the requests in flight.
func serve(ctx context.Context, addr string) error {
	srv := &http.Server{Addr: addr, Handler: handler(), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.ListenAndServe() }()
	slog.Info("hello listens", "addr", addr)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	slog.Info("hello is done")
	return nil
}

func handler() http.Handler {
	greeting := os.Getenv("GREETING")
	if greeting == "" {
		greeting = "Hello"
	}
	host, err := os.Hostname()
	if err != nil {
		host = "somewhere"
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		ms, err := strconv.Atoi(r.URL.Query().Get("ms"))
		wait := time.Duration(ms) * time.Millisecond
		if err != nil || wait < 0 || wait > maxSlow {
			http.Error(w, "write /slow?ms=N with N from 0 to 60000", http.StatusBadRequest)
			return
		}
		select {
		case <-time.After(wait):
			_, _ = fmt.Fprintf(w, "%s from %s, %s later\n", greeting, host, wait)
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "%s from %s\n", greeting, host)
	})
	return mux
}
